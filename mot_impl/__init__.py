"""THE FUSED TWIN: the ops of the contract as Triton kernels. Right before fast; it never falls back to PyTorch.

On a GPU of compute capability 8.0 or newer in float32, float16 and bfloat16; on a CPU in Triton's interpreter
(TRITON_INTERPRET=1 before the import) in float32 and float16. Anything else raises NotImplementedError.
"""

import dataclasses
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
from mot_impl.quantise import CutBlock, quantise_rows
from mot_impl.rotary import RowBlock, qk_norm_rotary, rotary
from mot_impl.tiles import TileTable
from reference_impl.contract import MoTOps, Problem


def fused_ops(tiles: TileTable) -> MoTOps:
    """The fused implementation with `tiles` asked for every matrix kernel."""
    return MoTOps(
        name="fused",
        linear=partial(linear, tiles=tiles),
        rms_norm=rms_norm,
        head_rms_norm=head_rms_norm,
        add_rms_norm=add_rms_norm,
        rotary=rotary,
        qk_norm_rotary=qk_norm_rotary,
        gated_linear=partial(gated_linear, tiles=tiles),
        gated_mlp=partial(gated_mlp, tiles=tiles),
        attention=attention,
        describe_tile=partial(describe_tile, tiles=tiles),
        quantise_rows=quantise_rows,
        quantised_rms_norm=quantised_rms_norm,
        quantised_add_rms_norm=quantised_add_rms_norm,
    )


def describe_tile(problem: Problem, tiles: TileTable) -> str:
    """The tile of `problem` and its origin, e.g. "128x256x64 w8 s3 (heuristic)". Raises ValueError for another op.

    gated_mlp names two, of its two launches.
    """
    match problem.op:
        case "linear" | "gated_linear":
            return str(tiles.choose(problem))
        case "gated_mlp":
            gated = tiles.choose(dataclasses.replace(problem, op="gated_linear"))
            down = tiles.choose(dataclasses.replace(problem, op="linear", n=problem.k, k=problem.n))
            return f"{gated}; {down}"
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
