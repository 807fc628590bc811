"""Compile the Hopper kernel for sm_90 without a GPU and print one line of JSON per variant.

A program, not a test: interpreted and compiled kernels cannot share a process. Run it without TRITON_INTERPRET.
"""

import dataclasses
import itertools
import json

import torch

from mot_impl.compiled import compile_tile
from mot_impl.tiles import HOPPER_TILE, TileTable
from reference_impl.contract import Problem

HALVES = (torch.bfloat16, torch.float16)
RULE = set(itertools.product(HALVES, ("linear", "gated_linear"), (HOPPER_TILE.stages,)))
TUNED = {
    (getattr(torch, key.dtype), key.op, tile.stages)
    for file in TileTable.load(None).files
    for key, _, tile in file.entries
    if tile.kind == "hopper"
}

if __name__ == "__main__":
    for (dtype, op, stages), bias in itertools.product(sorted(RULE | TUNED, key=str), (False, True)):
        tile = dataclasses.replace(HOPPER_TILE, stages=stages)
        problem = Problem(op, 1026, 3584, 3584, dtype, torch.device("cuda"), image_first=True)
        made = dataclasses.asdict(compile_tile(problem, tile, bias, 90))
        print(json.dumps(made | {"variant": f"{op} {dtype}{' bias' if bias else ''} {tile}"}), flush=True)
