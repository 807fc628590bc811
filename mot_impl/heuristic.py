"""The tiles of a problem that nobody has measured: the last tier of mot_impl/tiles.py, and which kernels can run."""

import dataclasses

import torch
import triton

from mot_impl.device import INTERPRETED
from mot_impl.tile import Tile, TileChoice
from reference_impl.contract import Problem

DEFAULT_SHARED_MEMORY = 232_448
"""Bytes a block may use on sm_90; a device that is asked says its own."""

ASYNCHRONOUS = (9, 10)
"""Major compute capabilities whose tensor cores read shared memory by themselves (wgmma, tcgen05)."""

HOPPER_TILE = Tile(128, 256, 64, warps=8, stages=4, kind="hopper")
"""The only tile of the Hopper kernel: two warpgroups that multiply, and a ring that fills the shared memory."""

HOPPER_TILES: dict[str, Tile] = {
    "dense": HOPPER_TILE,
    "fp8": dataclasses.replace(HOPPER_TILE, block_k=128),
    "int8": dataclasses.replace(HOPPER_TILE, block_m=256, block_n=128, stages=5),
}
"""By kind of experts. A step is 128 bytes of each row of x: 64 values of 16 bits, 128 of 8. int8 weights are the left
operand, of 64 rows a warpgroup: all registers that sums have are its 256 rows of x."""

INT8_FEW_ROWS = (
    dataclasses.replace(HOPPER_TILES["int8"], block_m=64, stages=12),
    dataclasses.replace(HOPPER_TILES["int8"], block_m=128, stages=8),
)
"""Of int8 weights, for as many rows: what x leaves of the shared memory goes to weights in flight."""

HOPPER_ROWS = 128
"""From how many rows the Hopper kernel is chosen; below, its tiles of 128 rows are mostly padding. Measured on an H100
with 2 text rows: the four layers of 128 rows together take 0.83 of the plain kernel's time, those of 64 rows 1.23."""

INT8_HOPPER_ROWS = 17
"""The same for int8 weights, whose kernel has tiles of 64 rows; an expert of up to 16 is narrow there, too."""

HOPPER_TRITON = "3.6."
"""The Triton whose Gluon mot_impl/hopper*.py are written in."""


def rule(problem: Problem) -> TileChoice:
    """The choice for a problem that no file knows."""
    if INTERPRETED:
        return TileChoice(interpreter_tile(problem), "interpreter")
    if problem.m >= (INT8_HOPPER_ROWS if problem.kind == "int8" else HOPPER_ROWS) and hopper_can(problem):
        return TileChoice(hopper_tile(problem), "heuristic")
    asynchronous = torch.cuda.get_device_capability(problem.device)[0] in ASYNCHRONOUS
    return TileChoice(heuristic_tile(problem, shared_memory(problem.device), asynchronous), "heuristic")


def hopper_tile(problem: Problem) -> Tile:
    """The tile of the Hopper kernel; of int8 weights the one whose tiles of rows are the least padding."""
    few = [tile for tile in INT8_FEW_ROWS if problem.m <= tile.block_m] if problem.kind == "int8" else []
    return few[0] if few else HOPPER_TILES[problem.kind]


def hopper_can(problem: Problem) -> bool:
    """Whether the Hopper kernel computes `problem`: sorted rows in half precision, rows of 16-byte multiples for TMA,
    the chip, and the Triton that it is written for."""
    return (
        problem.image_first
        and problem.kind in HOPPER_TILES
        and problem.dtype in (torch.float16, torch.bfloat16)
        and problem.k * itemsize(problem) % 16 == 0
        and problem.n % 8 == 0
        and problem.device.type == "cuda"
        and torch.cuda.get_device_capability(problem.device) == (9, 0)
        and triton.__version__.startswith(HOPPER_TRITON)
    )


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one block may use on `device`."""
    if device.type != "cuda":
        return DEFAULT_SHARED_MEMORY
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)


def itemsize(problem: Problem) -> int:
    """Bytes of one value of the weights."""
    return problem.dtype.itemsize if problem.kind == "dense" else 1


def accumulators(op: str) -> int:
    """How many accumulators of block_n columns a kernel keeps: gate and up are two."""
    return 2 if op == "gated_linear" else 1


def heuristic_tile(
    problem: Problem, shared_memory_bytes: int = DEFAULT_SHARED_MEMORY, asynchronous: bool = True
) -> Tile:
    """A sensible tile for sm_80 and newer, smaller for fewer rows, cut to the shared memory that there is.

    Where products are not asynchronous their operands pass through registers, which then hold half as many sums: the
    large tile spilled 13 KB a thread when it was compiled for sm_80.
    Measured on an H100: 128x256x64 with 8 warps and 3 stages is the best plain tile for the sizes of BAGEL. float32
    multiplies without tensor cores and compensates its sums, which takes three registers a value: its tiles are small.
    """
    halves = accumulators(problem.op)
    if problem.kind == "fp8":
        tile = _fp8_tile(problem.m, halves)
    elif problem.kind == "int8" and (problem.dtype == torch.float32 or problem.m <= 64):
        tile = _int8_tile(problem, halves)
    elif problem.dtype == torch.float32:
        tile = Tile(16 if problem.m <= 16 else 64, 64 // halves, 32, 4, 3)
    elif problem.m <= 16:
        tile = Tile(16, 128 // halves, 128, 4, 4)
    elif problem.m <= 64:
        tile = Tile(64, 128 // halves, 64, 4, 4)
    elif problem.m <= 512:
        tile = Tile(128, 128 // halves, 64, 8, 4)
    else:
        tile = Tile(128, (256 if asynchronous else 128) // halves, 64, 8, 3)
    while (
        tile.shared_memory(1 if problem.kind == "fp8" else problem.dtype.itemsize, halves) > shared_memory_bytes
        and tile.stages > 1
    ):
        tile = dataclasses.replace(tile, stages=tile.stages - 1)
    return tile


def _fp8_tile(m: int, halves: int) -> Tile:
    """Twice as deep as in 16 bits, and for few rows narrow, so that many blocks read: 0.51 to 0.86 of the time of tiles
    of 128 columns on an H200. Wider tiles for more rows spilled when sums are exact, or gated."""
    if m <= 16:
        return Tile(16, 32, 256, 4, 4)
    if m <= 64:
        return Tile(64, 32, 256, 4, 5) if halves == 1 else Tile(64, 64, 128, 4, 4)
    return Tile(128, 128 // halves, 128, 8, 4)


def _int8_tile(problem: Problem, halves: int) -> Tile:
    """float32, whose gated sums spilled with 64 rows, the others with 4 warps; or few rows in half precision, where
    memory decides: as many pieces as give every multiprocessor of an H100 three blocks that read."""
    if problem.dtype == torch.float32:
        return Tile(16 if problem.m <= 16 else 64 // halves, 64 // halves, 32, 8 // halves, 3)
    block_m, block_n, warps = (16, 32, 2) if problem.m <= 16 else (64, 64, 4)
    blocks = -(-problem.n // block_n)
    pieces = next((p for p in (0, 2) if blocks * max(p, 1) >= 3 * 132), 4)
    return Tile(block_m, block_n, 128, warps, 6 - halves, pieces=pieces)


def interpreter_tile(problem: Problem) -> Tile:
    """The largest tile that the problem fills: the interpreter's cost goes with the number of steps.

    Of int8 weights only 64 deep: NumPy adds up a step in one running sum, which with codes of up to 127 and an outlier
    in x erred by 1.4 times what float32 is allowed; sums of steps are compensated.
    """
    block_n = _fill(problem.n, 2048 // accumulators(problem.op))
    block_k = _fill(problem.k, 64 if problem.kind == "int8" else 2048)
    return Tile(_fill(problem.m, 512), block_n, block_k, warps=4, stages=1)


def _fill(size: int, most: int) -> int:
    return min(most, max(16, 1 << (size - 1).bit_length())) if size else 16
