"""Routed RMSNorm over a row, over each head of a row, and over the sum of two rows."""

import torch
from torch import Tensor

from reference_impl.checks import check_add_norm, check_norm
from reference_impl.contract import Route, accumulation_dtype, require


def rms_norm(x: Tensor, gain: Tensor, route: Route, eps: float) -> Tensor:
    """y[row] = x[row] / sqrt(mean(x[row]^2) + eps) * gain[expert of row], in float32, rounded once.

    x [M, K], gain [2, K] -> [M, K] in x's dtype. Raises ValueError or TypeError.
    Source: Qwen2RMSNorm and its `_moe_gen` twin.
    """
    require(x.ndim == 2, "x has shape {} but must be [M, K]", tuple(x.shape))
    check_norm(x, gain, route)
    return _normalise(x, gain, route, eps)


def head_rms_norm(x: Tensor, gain: Tensor, route: Route, eps: float) -> Tensor:
    """The same over the last axis of x [M, heads, d]; gain [2, d] is shared by all heads of an expert.

    Raises ValueError or TypeError. Source: BAGEL's q_norm and k_norm.
    """
    require(x.ndim == 3, "x has shape {} but must be [M, heads, d]", tuple(x.shape))
    check_norm(x, gain, route)
    return _normalise(x, gain, route, eps)


def add_rms_norm(x: Tensor, other: Tensor, gain: Tensor, route: Route, eps: float) -> tuple[Tensor, Tensor]:
    """(s, rms_norm(s, gain)) with s = x + other, rounded before it is normalised: a residual and the norm behind it.

    x and other [M, K], gain [2, K] -> two of [M, K] in x's dtype. Raises ValueError or TypeError.
    Source: Qwen2's decoder layer, which adds in the dtype of its hidden states and then normalises.
    """
    check_add_norm(x, other, gain, route)
    total = x + other
    return total, rms_norm(total, gain, route, eps)


def _normalise(x: Tensor, gain: Tensor, route: Route, eps: float) -> Tensor:
    y = torch.empty_like(x)
    for expert, rows in enumerate(route.expert_rows):
        wide = x[rows].to(accumulation_dtype(x.dtype))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        y[rows] = (wide * scale * gain[expert]).to(x.dtype)
    return y
