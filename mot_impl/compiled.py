"""What the compiler makes of a matrix kernel with a tile, for a chip that need not be there.

The kernel gets stand-ins for its tensors and goes through the same door as a launch, so that the first launch with such
arguments finds the result in Triton's cache. Works only where kernels are compiled: TRITON_INTERPRET unset.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import MockTensor

from mot_impl.device import INTERPRETED
from mot_impl.tiles import Tile
from reference_impl.contract import FP8, Problem, require

SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Bytes of shared memory that one block may use, by compute capability. Source: CUDA C++ Programming Guide, table of
technical specifications, less the 1 KB that the system keeps of each block's."""

SUFFIXES = {90: "a", 100: "a", 120: "a"}
"""What Triton appends to `sm_90` and newer: wgmma and its successors are in no plainer target."""


Asked = tuple[Any, dict[str, Any], dict[str, Any]]
"""A kernel, its arguments by name, and its options."""


@dataclass(frozen=True)
class Compiled:
    """What a block of the kernel takes, and what the assembler did.

    registers      of a thread
    spilled_bytes  of a thread, stored and loaded because registers were too few
    shared_bytes   of a block
    threads        of a block, those of other warp groups than the first included
    wgmma          how many asynchronous products of a warp group (sm_90) the program has
    serialised     whether the assembler made them wait for each other ("Potential Performance Loss")
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int
    threads: int
    wgmma: int
    serialised: bool


def compile_tile(problem: Problem, tile: Tile, bias: bool, capability: int, exact: bool = False) -> Compiled:
    """Compile the kernel that computes `problem` with `tile` and say what it takes.

    `problem.op` is linear or gated_linear. Raises ValueError for another op or an interpreting process, and what Triton
    raises for a tile that it cannot compile.
    """
    require(problem.op in ("linear", "gated_linear"), "op {!r} has no tiles; name linear or gated_linear", problem.op)
    if problem.kind == "int8":
        kernel, arguments, options = (_hopper_int8 if tile.kind == "hopper" else _gather_int8)(problem, tile, bias)
    else:
        kernel, arguments, options = (_hopper if tile.kind == "hopper" else _gather)(problem, tile, bias, exact)
    return report(warm(kernel, arguments, options, capability), capability)


def variant(problem: Problem, tile: Tile, bias: bool) -> str:
    """What tells one compiled kernel from another: problems and tiles of one variant share it."""
    what = f"hopper {tile.block_m}x{tile.block_n} s{tile.stages}" if tile.kind == "hopper" else str(tile)
    dtype = str(problem.dtype).removeprefix("torch.") + ("" if problem.kind == "dense" else f" {problem.kind}")
    return f"{problem.op} {dtype} N={problem.n} K={problem.k}{' bias' if bias else ''} {what}"


def warm(kernel: Any, arguments: dict[str, Any], options: dict[str, Any], capability: int) -> Any:
    """Compile `kernel` for these arguments without launching it: Triton's compiled kernel."""
    require(not INTERPRETED, "kernels are interpreted in process with TRITON_INTERPRET={}; unset it to compile", "1")
    with _compiling_for(capability):
        return kernel.warmup(**arguments, **options, grid=(1,))


def report(binary: Any, capability: int) -> Compiled:
    """Ask the assembler for what only the driver would tell otherwise. Raises ValueError if it does not say."""
    tools = triton.knobs.nvidia
    ptxas = tools.ptxas_blackwell if capability >= 100 else tools.ptxas
    architecture = f"sm_{capability}{SUFFIXES.get(capability, '')}"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as ptx:
        ptx.write(binary.asm["ptx"])
        ptx.flush()
        command = [ptxas.path, "-v", f"--gpu-name={architecture}", ptx.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    registers = re.search(r"Used (\d+) registers", said)
    if spills is None or registers is None:
        raise ValueError(f"ptxas said nothing of registers and spills but: {said}; is it another version?")
    threads = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)", binary.asm["ptx"])
    return Compiled(
        registers=int(registers[1]),
        spilled_bytes=int(spills[1]) + int(spills[2]),
        shared_bytes=binary.metadata.shared,
        threads=int(threads[1]) if threads else 32 * binary.metadata.num_warps,
        wgmma=binary.asm["ptx"].count("wgmma.mma_async"),
        serialised="wgmma" in said or "Potential Performance Loss" in said,
    )


class _NoDevice:
    """Stands in for Triton's driver where kernels are compiled only. Its "device" is the capability, because a kernel
    keeps what it compiled by device."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


@contextmanager
def _compiling_for(capability: int) -> Iterator[None]:
    config = triton.runtime.driver
    before = config._active
    config.set_active(_NoDevice(capability))
    try:
        yield
    finally:
        config._active = before


def _gather(
    problem: Problem, tile: Tile, bias: bool, exact: bool = False
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The kernel of launch_routed in mot_impl/linear.py, its arguments and options."""
    from mot_impl.linear import _linear_kernel
    from mot_impl.mlp import _gated_kernel

    gated = problem.op == "gated_linear"
    value, total = MockTensor(problem.dtype), MockTensor(torch.float32)
    scaled = problem.kind == "fp8"
    w = MockTensor(FP8) if scaled else value
    # What is not there is stood in for by the result, as launch_routed has it.
    scale = total if scaled else value
    arguments = {
        "x_ptr": w, "w_ptr": w, "bias_ptr": value if bias else w, "y_ptr": value,
        "x_scale_ptr": scale, "w_scale_ptr": scale, "rows_ptr": MockTensor(torch.int64),
        "n_rows": problem.m, "n_text": 2, "N": problem.n, "stride_x": problem.k,
        "stride_w_expert": problem.n * problem.k * (2 if gated else 1), "stride_w": problem.k,
        "K": problem.k, "HAS_BIAS": bias, "SCALED": scaled, "WIDEN": exact, "GROUP_M": tile.group_m,
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
    }  # fmt: skip
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return _gated_kernel if gated else _linear_kernel, arguments, options


def _hopper(
    problem: Problem, tile: Tile, bias: bool, exact: bool = False
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The kernel of routed in mot_impl/hopper_launch.py, its arguments and options."""
    from mot_impl.hopper import _hopper_kernel
    from mot_impl.hopper_launch import box

    gated, scaled = problem.op == "gated_linear", problem.kind == "fp8"
    result, count, total = (MockTensor(dtype) for dtype in (problem.dtype, torch.int32, torch.float32))
    # No value is read: a few of them stand for a matrix.
    operand = torch.empty(256, tile.block_k, dtype=FP8 if scaled else problem.dtype)
    value = torch.empty(256, 64, dtype=problem.dtype)
    rows = {"x_text": 128, "x_image": 128, "x_narrow": 16, "w_desc": 128 if gated else 256}
    known: dict[str, Any] = {name: box(operand, size, tile.block_k) for name, size in rows.items()}
    known |= {"y_text": box(value, 64, 64), "y_image": box(value, 64, 64)}
    known |= dict.fromkeys(("y_narrow", "bias"), result)
    known |= dict.fromkeys(("x_scale", "w_scale"), total if scaled else result)
    known |= dict.fromkeys(("parts", "narrow_parts"), total)
    known |= dict.fromkeys(("head", "wide", "narrow", "flags", "narrow_flags"), count)
    known |= {"GATED": gated, "HAS_BIAS": bias, "SCALED": scaled, "EXACT": exact, "STAGES": tile.stages}
    # What is left are counts, which the kernel does not specialise on.
    return _hopper_kernel, {name: known.get(name, 1) for name in _hopper_kernel.arg_names}, {"num_warps": 4}


def _gather_int8(problem: Problem, tile: Tile, bias: bool) -> Asked:
    """The kernel of routed in mot_impl/int8.py, its arguments and options."""
    from mot_impl.int8 import _int8_kernel

    gated, cut = problem.op == "gated_linear", tile.pieces > 1
    value, total = MockTensor(problem.dtype), MockTensor(torch.float32)
    arguments = {
        "x_ptr": value, "w_ptr": MockTensor(torch.int8), "scale_ptr": total, "bias_ptr": value, "y_ptr": value,
        "rows_ptr": MockTensor(torch.int64), "parts_ptr": total if cut else value,
        "done_ptr": MockTensor(torch.int32) if cut else value,
        "n_rows": problem.m, "n_text": 2, "N": problem.n, "stride_x": problem.k,
        "stride_w_expert": problem.n * problem.k * (2 if gated else 1), "stride_w": problem.k,
        "K": problem.k, "GATED": gated, "HAS_BIAS": bias, "PIECES": max(tile.pieces, 1), "GROUP_M": tile.group_m,
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
    }  # fmt: skip
    return _int8_kernel, arguments, {"num_warps": tile.warps, "num_stages": tile.stages}


def _hopper_int8(problem: Problem, tile: Tile, bias: bool) -> Asked:
    """The kernel of routed in mot_impl/hopper_int8_launch.py, its arguments and options."""
    from mot_impl.hopper_int8 import _hopper_int8_kernel
    from mot_impl.hopper_int8_launch import result_block
    from mot_impl.hopper_launch import box

    gated = problem.op == "gated_linear"
    # No value is read: a few of them stand for a matrix.
    value, weights = torch.empty(256, 64, dtype=problem.dtype), torch.empty(256, 64, dtype=torch.int8)
    known: dict[str, Any] = {
        name: box(value, rows, 64)
        for name, rows in (("x_text", tile.block_m), ("x_image", tile.block_m), ("x_narrow", 16))
    }
    known |= {"w_desc": box(weights, 64 if gated else 128, 64)}
    known |= {name: box(value, *result_block(tile.block_m, gated)) for name in ("y_text", "y_image")}
    known |= dict.fromkeys(("y_narrow", "bias"), MockTensor(problem.dtype))
    known |= dict.fromkeys(("scale", "parts", "narrow_parts"), MockTensor(torch.float32))
    known |= dict.fromkeys(("head", "wide", "narrow", "flags", "narrow_flags"), MockTensor(torch.int32))
    known |= {"GATED": gated, "HAS_BIAS": bias, "TOKENS": tile.block_m, "STAGES": tile.stages}
    # What is left are counts, which the kernel does not specialise on.
    arguments = {name: known.get(name, 1) for name in _hopper_int8_kernel.arg_names}
    return _hopper_int8_kernel, arguments, {"num_warps": 4}
