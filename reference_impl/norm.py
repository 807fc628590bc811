"""Routed RMSNorm over a row, over each head of a row, and over the sum of two rows; the result as it is, or in fp8."""

import torch
from torch import Tensor

from reference_impl.checks import check_add_norm, check_norm
from reference_impl.contract import QuantisedRows, Route, accumulation_dtype, require
from reference_impl.quantise import quantise_rows


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


def quantised_rms_norm(
    x: Tensor, gain: Tensor, route: Route, eps: float, input_scale: Tensor | None = None
) -> QuantisedRows:
    """quantise_rows(rms_norm(x, gain)), the norm rounded to x's dtype before it is quantised: what an fp8 layer takes.

    x [M, K], gain [2, K], input_scale [2] or None -> M rows of K. Raises ValueError or TypeError.
    """
    return quantise_rows(rms_norm(x, gain, route, eps), route, input_scale)


def quantised_add_rms_norm(
    x: Tensor, other: Tensor, gain: Tensor, route: Route, eps: float, input_scale: Tensor | None = None
) -> tuple[Tensor, QuantisedRows]:
    """(s, quantise_rows(rms_norm(s, gain))) with s = x + other, rounded. Raises ValueError or TypeError."""
    total, normed = add_rms_norm(x, other, gain, route, eps)
    return total, quantise_rows(normed, route, input_scale)


def _normalise(x: Tensor, gain: Tensor, route: Route, eps: float) -> Tensor:
    y = torch.empty_like(x)
    for expert, rows in enumerate(route.expert_rows):
        wide = x[rows].to(accumulation_dtype(x.dtype))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        y[rows] = (wide * scale * gain[expert]).to(x.dtype)
    return y
