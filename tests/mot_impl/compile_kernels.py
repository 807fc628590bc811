"""Compile every fused kernel without a GPU, most of them for sm_90, and print one line of JSON per variant.

A program, not a test: interpreted and compiled kernels cannot share a process. Run it without TRITON_INTERPRET.
"""

import dataclasses
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mot_impl.compiled import SHARED_MEMORY, report
from mot_impl.heuristic import ASYNCHRONOUS
from mot_impl.linear import _linear_kernel
from mot_impl.mlp import _gated_kernel
from mot_impl.norm import WIDEST, HeadBlock, _add_norm_kernel, _norm_kernel, _quantised_norm_kernel
from mot_impl.quantise import CutBlock, _quantise_kernel
from mot_impl.rotary import RowBlock, _qk_norm_rotary_kernel, _rotary_kernel
from mot_impl.tiles import Tile, TileTable, heuristic_tile
from reference_impl.contract import Problem

CHIPS = {"A100": 80, "H100": 90, "H200": 90, "B200": 100}
"""Compute capability of the chips for which a tile file may be shipped."""

ELSEWHERE = (80, 100)
"""Other capabilities for which these kernels are declared (mot_impl.device.FIRST_CAPABILITY and newer)."""

FP8_FROM = 89
"""The first of them with 8-bit floats (mot_impl.device.FP8_CAPABILITY)."""

MODULES = ["linear", "mlp", "norm", "quantise", "rotary"]
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
MATRIX = {"linear": _linear_kernel, "gated_linear": _gated_kernel}
ALIGNED, ODD = 3584, 3600
"""A K that is a multiple of every block_k, and one that needs the masks."""


@dataclass(frozen=True)
class Variant:
    """One kernel with what is constant in it, for one compute capability. `types` overrides a parameter's type."""

    kernel: triton.JITFunction
    dtype: torch.dtype
    label: str
    constants: dict[str, Any]
    options: dict[str, int]
    types: dict[str, str] = field(default_factory=dict)
    capability: int = 90

    def signature(self) -> dict[str, str]:
        """A pointer is of the variant's dtype, a size or stride is int32."""
        return {name: self._type(name) for name in self.kernel.arg_names}

    def _type(self, name: str) -> str:
        if name in self.constants:
            return "constexpr"
        return self.types.get(name, f"*{NAMES[self.dtype]}" if name.endswith("_ptr") else "i32")

    def attributes(self) -> dict[tuple[int], list[list[Any]]]:
        """Pointers, widths and strides are multiples of 16, as PyTorch's allocator and BAGEL's shapes make them."""
        aligned = [
            i
            for i, name in enumerate(self.kernel.arg_names)
            if name not in self.constants and (name.endswith("_ptr") or name.startswith("stride") or name.isupper())
        ]
        return {(i,): [["tt.divisibility", 16]] for i in aligned}


def variants() -> Iterator[Variant]:
    """Every kernel in every dtype; every tile of the heuristic, and the masks with the largest; every tuned tile; and
    each kernel elsewhere, in bfloat16 with its largest tile."""
    for dtype in NAMES:
        for op in MATRIX:
            # float16 has the tiles of bfloat16: its largest will do.
            few = () if dtype == torch.float16 else (1, 64, 512)
            for m, k in (*((m, ALIGNED) for m in few), (4098, ALIGNED), (4098, ODD)):
                yield by_rule(op, dtype, m, k)
        yield from norm_variants(dtype)
        yield from quantised_variants(dtype)
    yield from fp8_by_rule()
    yield from tuned_variants()
    for capability in ELSEWHERE:
        yield from (by_rule(op, torch.bfloat16, 4098, ALIGNED, capability) for op in MATRIX)
        rowwise = [
            *norm_variants(torch.bfloat16),
            *(quantised_variants(torch.bfloat16) if capability >= FP8_FROM else ()),
        ]
        yield from (dataclasses.replace(variant, capability=capability) for variant in rowwise)


def by_rule(op: str, dtype: torch.dtype, m: int, k: int, capability: int = 90) -> Variant:
    """A matrix kernel as the heuristic would launch it for M rows."""
    problem = Problem(op, m, 3584, k, dtype, torch.device("cpu"))
    tile = heuristic_tile(problem, SHARED_MEMORY[capability], capability // 10 in ASYNCHRONOUS)
    return matrix_variant(op, dtype, k, tile, capability)


def fp8_by_rule() -> Iterator[Variant]:
    """The matrix kernels of fp8 experts: every tile of the heuristic, and the masks; exact sums where most is held."""
    for op in MATRIX:
        for m, k, widen in (
            *((m, ALIGNED, False) for m in (16, 64, 4098)),
            (4098, ODD, False),
            *((m, ALIGNED, True) for m in (64, 4098)),
        ):
            problem = Problem(op, m, 3584, k, torch.bfloat16, torch.device("cpu"), kind="fp8")
            made = fp8_variant(matrix_variant(op, torch.bfloat16, k, heuristic_tile(problem), 90))
            label = f"{'exact ' if widen else ''}{made.label}"
            yield dataclasses.replace(made, label=label, constants=made.constants | {"WIDEN": widen})


def tuned_variants() -> Iterator[Variant]:
    """Every plain tile in the package's tile files, once for each K, on the chip that it was measured on; those of int8
    weights are another file's."""
    plain = {
        (key.op, key.dtype, key.k, tile, next(value for chip, value in CHIPS.items() if chip in file.device.split("_")))
        for file in TileTable.load(None).files
        for key, _, tile in file.entries
        if tile.kind == "gather" and key.dtype != "int8"
    }
    for op, dtype, k, tile, capability in sorted(plain, key=str):
        made = matrix_variant(op, torch.bfloat16 if dtype == "fp8" else getattr(torch, dtype), k, tile, capability)
        # As it was tuned: BAGEL's gate_up has no bias.
        made = dataclasses.replace(made, constants=made.constants | {"HAS_BIAS": op == "linear"})
        yield fp8_variant(made) if dtype == "fp8" else made


def fp8_variant(variant: Variant) -> Variant:
    """The same kernel with rows and weights in fp8, and their scales."""
    types = dict.fromkeys(("x_ptr", "w_ptr"), "*fp8e4nv") | dict.fromkeys(("x_scale_ptr", "w_scale_ptr"), "*fp32")
    constants = variant.constants | {"SCALED": True}
    return dataclasses.replace(variant, label=f"fp8 {variant.label}", constants=constants, types=variant.types | types)


def matrix_variant(op: str, dtype: torch.dtype, k: int, tile: Tile, capability: int) -> Variant:
    """A matrix kernel with a tile, K constant in it."""
    constants = {
        "K": k, "HAS_BIAS": True, "SCALED": False, "WIDEN": False, "GROUP_M": tile.group_m,
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
    }  # fmt: skip
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return Variant(MATRIX[op], dtype, f"{tile} K={k}", constants, options, {"rows_ptr": "*i64"}, capability)


def norm_variants(dtype: torch.dtype) -> Iterator[Variant]:
    """The norms over a row of BAGEL's and the widest, over a head; rotary on a head of 128, and both together on
    BAGEL's heads and on many."""
    types = {"rows_ptr": "*i64", "into_ptr": "*i64", "eps": "fp32", "cos_ptr": "*fp32", "sin_ptr": "*fp32"}
    widths = [(_norm_kernel, 3584), (_norm_kernel, WIDEST), (_norm_kernel, 128)]
    widths += [(_add_norm_kernel, 3584), (_add_norm_kernel, WIDEST // 2)]
    for kernel, width in widths:
        block = HeadBlock.of(4096, width)
        constants = {"BLOCK_H": block.heads, "BLOCK_D": block.width}
        yield Variant(kernel, dtype, f"{block.heads}x{block.width}", constants, {"num_warps": block.warps}, types)
    block = HeadBlock.of(4096, 128)
    constants = {"BLOCK_H": block.heads, "BLOCK_D": block.width // 2}
    yield Variant(_rotary_kernel, dtype, "128", constants, {"num_warps": block.warps}, types)
    for heads, kv_heads, width in ((28, 4, 128), (96, 8, 128)):
        row = RowBlock.of(4096, heads + kv_heads, width)
        constants = {"HEADS": heads, "KV_HEADS": kv_heads, "HALF": width // 2, "BLOCK_V": kv_heads * width}
        constants |= {"BLOCK_R": row.rows, "BLOCK_H": row.heads, "BLOCK_D": row.width // 2}
        for where, into in {"": (False, False), " kept": (True, False), " scattered": (True, True)}.items():
            kept = dict(zip(("KEEP_V", "SCATTER"), into, strict=True))
            label, options = f"{heads}+{kv_heads}x{width}{where}", {"num_warps": row.warps}
            yield Variant(_qk_norm_rotary_kernel, dtype, label, constants | kept, options, types)


def quantised_variants(dtype: torch.dtype) -> Iterator[Variant]:
    """Rows in fp8, of the widths of BAGEL's layers and the widest, and the norms that quantise, of a row of BAGEL's and
    the widest; each with a scale of every row's own, and with fixed ones."""
    pointers = dict.fromkeys(("scale_ptr", "input_scale_ptr"), "*fp32")
    types = pointers | {"rows_ptr": "*i64", "values_ptr": "*u8", "eps": "fp32"}
    for fixed in (False, True):
        own = "fixed" if fixed else "own"
        for width in (3584, 18944, WIDEST):
            cut = CutBlock.of(4096, width)
            constants = {"BLOCK_R": cut.rows, "BLOCK_D": cut.width, "BLOCK_REST": cut.rest, "FIXED": fixed}
            yield Variant(_quantise_kernel, dtype, f"{width} {own}", constants, {"num_warps": cut.warps}, types)
        for add, width in ((False, 3584), (True, 3584), (False, WIDEST // 2), (True, WIDEST // 2)):
            block, what = HeadBlock.of(4096, width), " sum" if add else ""
            constants = {"BLOCK_H": block.heads, "BLOCK_D": block.width, "ADD": add, "FIXED": fixed}
            label = f"{width} {own}{what}"
            yield Variant(_quantised_norm_kernel, dtype, label, constants, {"num_warps": block.warps}, types)


def compiled(variant: Variant) -> dict[str, Any]:
    """Compile, then ask the assembler for what only the driver would tell otherwise."""
    source = ASTSource(variant.kernel, variant.signature(), variant.constants, variant.attributes())
    binary = triton.compile(source, target=GPUTarget("cuda", variant.capability, 32), options=variant.options)
    made, ptx = report(binary, variant.capability), binary.asm["ptx"]
    return dataclasses.asdict(made) | {
        "kernel": variant.kernel.__name__,
        "variant": f"{variant.kernel.__name__} {NAMES[variant.dtype]} sm_{variant.capability} {variant.label}",
        "capability": variant.capability,
        "tensor_cores": any(product in ptx for product in ("wgmma", "mma.sync", "tcgen05.mma")),
        "tf32": "tf32" in ptx,
    }


def kernels() -> list[str]:
    """The name of every kernel of the package: a JITFunction called *_kernel."""
    modules = [importlib.import_module(f"mot_impl.{name}") for name in MODULES]
    values = [value for module in modules for value in vars(module).values()]
    return sorted({v.__name__ for v in values if isinstance(v, triton.JITFunction) and v.__name__.endswith("_kernel")})


if __name__ == "__main__":
    print(json.dumps(kernels()))
    for one in variants():
        print(json.dumps(compiled(one)), flush=True)
