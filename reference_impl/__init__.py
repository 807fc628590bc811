"""THE SPECIFICATION: MoT ops in plain PyTorch, gather -> two layers -> scatter. Any device, any dtype, no Triton."""

from reference_impl.attention import attention
from reference_impl.contract import MoTOps, Problem
from reference_impl.linear import linear
from reference_impl.mlp import gated_linear, gated_mlp
from reference_impl.norm import (
    add_rms_norm,
    head_rms_norm,
    quantised_add_rms_norm,
    quantised_rms_norm,
    rms_norm,
)
from reference_impl.quantise import quantise_rows
from reference_impl.rotary import qk_norm_rotary, rotary


def _describe_tile(problem: Problem) -> str:
    return "none (plain PyTorch)"


OPS = MoTOps(
    name="reference",
    linear=linear,
    rms_norm=rms_norm,
    head_rms_norm=head_rms_norm,
    add_rms_norm=add_rms_norm,
    rotary=rotary,
    qk_norm_rotary=qk_norm_rotary,
    gated_linear=gated_linear,
    gated_mlp=gated_mlp,
    attention=attention,
    describe_tile=_describe_tile,
    quantise_rows=quantise_rows,
    quantised_rms_norm=quantised_rms_norm,
    quantised_add_rms_norm=quantised_add_rms_norm,
)
