"""Compile the Hopper kernel for sm_90 without a GPU and print one line of JSON per variant.

A program, not a test: interpreted and compiled kernels cannot share a process. Run it without TRITON_INTERPRET.
"""

import dataclasses
import itertools
import json
import re
from typing import Any

import torch

from mot_impl.compiled import _hopper, report, warm
from mot_impl.heuristic import HOPPER_TILES
from mot_impl.tiles import TileTable
from reference_impl.contract import Problem

OPS = ("linear", "gated_linear")
HALVES = [("dense", dtype, op) for dtype in (torch.bfloat16, torch.float16) for op in OPS]
EIGHTS = [("fp8", torch.bfloat16, op) for op in OPS]
"""In the other half precision only the last conversion differs."""
RULE = {(kind, dtype, op, HOPPER_TILES[kind].stages) for kind, dtype, op in HALVES + EIGHTS}
TUNED = {
    (key.dtype, torch.bfloat16, key.op, tile.stages)
    if key.dtype == "fp8"
    else ("dense", getattr(torch, key.dtype), key.op, tile.stages)
    for file in TileTable.load(None).files
    for key, _, tile in file.entries
    if tile.kind == "hopper" and key.dtype != "int8"
}


def spills_among_products(sass: str) -> int:
    """How often registers are spilled or fetched back in the innermost loops that multiply."""
    lines = sass.splitlines()
    labels = {line.strip(": \t"): i for i, line in enumerate(lines) if re.fullmatch(r"\s*LBB\d+:\s*", line)}
    jumps = [(i, found[1]) for i, line in enumerate(lines) if (found := re.search(r"BRA (LBB\d+)", line))]
    # The disassembler's labels lack those of blocks between the groups of warps.
    loops = [(labels[to], i) for i, to in jumps if to in labels and labels[to] <= i]
    multiply = [loop for loop in loops if any("GMMA" in line for line in lines[slice(*loop)])]
    innermost = [
        (start, end)
        for start, end in multiply
        if not any((start, end) != other and start <= other[0] and other[1] <= end for other in multiply)
    ]
    if len(innermost) < 2:
        raise ValueError(f"{len(innermost)} loops of products, not one in each warpgroup; another disassembler?")
    return sum(bool(re.search(r"\b(LDL|STL)\b", line)) for start, end in innermost for line in lines[start:end])


def compiled(kind: str, dtype: torch.dtype, op: str, stages: int, bias: bool, exact: bool) -> dict[str, Any]:
    """One variant, as the compiler and the disassembler tell of it."""
    tile = dataclasses.replace(HOPPER_TILES[kind], stages=stages)
    problem = Problem(op, 1026, 3584, 3584, dtype, torch.device("cuda"), image_first=True, kind=kind)
    binary = warm(*_hopper(problem, tile, bias, exact), 90)
    made = dataclasses.asdict(report(binary, 90))
    name = f"{op} {dtype} {kind}{' exact' if exact else ''}{' bias' if bias else ''} {tile}"
    among = spills_among_products(binary.asm["sass"]) if made["spilled_bytes"] else 0
    return made | {"variant": name, "exact": exact, "spills_among_products": among}


if __name__ == "__main__":
    for one, bias in itertools.product(sorted(RULE | TUNED, key=str), (False, True)):
        for exact in (False, True) if one[0] == "fp8" else (False,):
            print(json.dumps(compiled(*one, bias, exact)), flush=True)
