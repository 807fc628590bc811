"""THE FUSED TWIN: the ops of the contract as Triton kernels. Right before fast; it never falls back to PyTorch.

On a GPU of compute capability 8.0 or newer in float32, float16 and bfloat16; on a CPU in Triton's interpreter
(TRITON_INTERPRET=1 before the import) in float32 and float16. Anything else raises NotImplementedError.
"""

import dataclasses
import typing
from functools import partial

from mot_impl.attention import attention
from mot_impl.linear import linear
from mot_impl.mlp import gated_linear, gated_mlp
from mot_impl.norm import (
    HeadBlock,
    add_rms_norm,
    head_rms_norm,
    quantised_add_rms_norm,
    quantised_rms_norm,
    rms_norm,
)
from mot_impl.products import Accumulation
from mot_impl.quantise import CutBlock, quantise_rows
from mot_impl.rotary import RowBlock, qk_norm_rotary, rotary
from mot_impl.tiles import TileTable
from reference_impl.contract import MoTOps, Problem, require


def fused_ops(tiles: TileTable, accumulation: Accumulation = "fast") -> MoTOps:
    """The fused implementation with `tiles` asked for every matrix kernel.

    accumulation is for fp8 experts only. "fast": sums as the tensor cores keep them, on Hopper about 22 bits. "exact":
    in float32 at least every 128 values of K, and slower. Raises ValueError for another word.
    """
    known = typing.get_args(Accumulation)
    require(accumulation in known, "accumulation {!r} is not one of {}", accumulation, ", ".join(known))
    return MoTOps(
        name="fused",
        linear=partial(linear, tiles=tiles, accumulation=accumulation),
        rms_norm=rms_norm,
        head_rms_norm=head_rms_norm,
        add_rms_norm=add_rms_norm,
        rotary=rotary,
        qk_norm_rotary=qk_norm_rotary,
        gated_linear=partial(gated_linear, tiles=tiles, accumulation=accumulation),
        gated_mlp=partial(gated_mlp, tiles=tiles, accumulation=accumulation),
        attention=attention,
        describe_tile=partial(describe_tile, tiles=tiles, accumulation=accumulation),
        quantise_rows=quantise_rows,
        quantised_rms_norm=quantised_rms_norm,
        quantised_add_rms_norm=quantised_add_rms_norm,
    )


def describe_tile(problem: Problem, tiles: TileTable, accumulation: Accumulation = "fast") -> str:
    """The tile of `problem` and its origin, e.g. "128x256x64 w8 s3 (heuristic)". Raises ValueError for another op.

    gated_mlp names two, of its two launches. With fp8 experts the accumulation is told as well.
    """
    sums = f", {accumulation} sums" if problem.kind == "fp8" else ""
    match problem.op:
        case "linear" | "gated_linear":
            return f"{tiles.choose(problem)}{sums}"
        case "gated_mlp":
            gated = tiles.choose(dataclasses.replace(problem, op="gated_linear"))
            down = tiles.choose(dataclasses.replace(problem, op="linear", n=problem.k, k=problem.n))
            return f"{gated}; {down}{sums}"
        case "rms_norm" | "head_rms_norm" | "add_rms_norm" | "rotary" | "quantised_rms_norm" | "quantised_add_rms_norm":
            return str(HeadBlock.of(problem.m * problem.n // max(problem.k, 1), problem.k))
        case "qk_norm_rotary":
            return str(RowBlock.of(problem.m, problem.n // max(problem.k, 1), problem.k))
        case "quantise_rows":
            return str(CutBlock.of(problem.m, problem.k))
        case "attention":
            return "PyTorch's scaled_dot_product_attention"
    raise ValueError(f"op {problem.op!r} is not an op of the contract; see reference_impl.contract.MoTOps")


OPS = fused_ops(TileTable.load(None))
