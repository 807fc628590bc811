"""Compile the kernels of int8 weights without a GPU and print one line of JSON per variant.

A program, not a test: interpreted and compiled kernels cannot share a process. Run it without TRITON_INTERPRET.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator

import torch

from mot_impl.compiled import SHARED_MEMORY, compile_tile
from mot_impl.heuristic import ASYNCHRONOUS, HOPPER_TILES, INT8_FEW_ROWS, heuristic_tile
from mot_impl.tiles import Tile
from reference_impl.contract import Problem

HALVES = (torch.bfloat16, torch.float16)
OPS = ("linear", "gated_linear")
ALIGNED, ODD = 3584, 3600


def problem(op: str, dtype: torch.dtype, m: int, k: int) -> Problem:
    return Problem(op, m, 3584, k, dtype, torch.device("cuda"), image_first=True, kind="int8")


def variants() -> Iterator[tuple[Problem, Tile, bool, int]]:
    """The Hopper kernel in both dtypes; the other with every tile of the rule, with masks, and for older and newer
    chips."""
    for dtype, op, bias in itertools.product(HALVES, OPS, (False, True)):
        yield problem(op, dtype, 1026, ALIGNED), HOPPER_TILES["int8"], bias, 90
    for op, tile in itertools.product(OPS, INT8_FEW_ROWS):
        yield problem(op, torch.bfloat16, tile.block_m, ALIGNED), tile, True, 90
    for op, m in itertools.product(OPS, (1, 64, 512, 4098)):
        one = problem(op, torch.bfloat16, m, ALIGNED)
        yield one, heuristic_tile(one), True, 90
    for op, dtype in itertools.product(OPS, (torch.float32, torch.float16)):
        one = problem(op, dtype, 4098, ALIGNED)
        yield one, heuristic_tile(one), True, 90
    for op, capability in itertools.product(OPS, (80, 90, 100)):
        one = problem(op, torch.bfloat16, 4098, ODD)
        yield one, heuristic_tile(one, SHARED_MEMORY[capability], capability // 10 in ASYNCHRONOUS), False, capability


if __name__ == "__main__":
    for one, tile, bias, capability in variants():
        made = dataclasses.asdict(compile_tile(one, tile, bias, capability))
        dtype = str(one.dtype).removeprefix("torch.")
        name = f"{one.op} {dtype} M={one.m} K={one.k}{' bias' if bias else ''} sm_{capability} {tile}"
        print(json.dumps(made | {"variant": name, "kind": tile.kind, "capability": capability}), flush=True)
