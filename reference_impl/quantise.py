"""Quantised weights and rows: 8-bit values with a scale each, in the same arithmetic on every device.

A scale is the largest magnitude of a row over the largest 8-bit value; a value is the number times 1 / scale, clamped
and rounded to nearest even. All of it is float32, with IEEE division: an implementation that multiplies by the same
1 / scale gets the same bits.
"""

import torch
from torch import Tensor

from reference_impl.checks import check_quantise, check_scales
from reference_impl.contract import FP8, FP8_MAX, INT8_MAX, Experts, Kind, QuantisedRows, Route, require

SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""2^-126: below it 1 / scale would overflow. Rows of magnitudes under 448 * 2^-126 use fewer codes."""


def quantise_rows(x: Tensor, route: Route, input_scale: Tensor | None = None) -> QuantisedRows:
    """Each row in fp8: x [M, K] -> values [M, K] and scale [M].

    input_scale [2]: each expert's fixed scale; what it does not reach is clamped to +-448. None: absmax / 448 of each
    row, 1 for a row of zeros. NaN and infinite elements become NaN: they spoil the results of their own row and of no
    other. Raises ValueError or TypeError.
    """
    check_quantise(x, route, input_scale)
    wide = x.float()
    if input_scale is None:
        scale = absmax_scale(wide, FP8_MAX)
    else:
        scale = torch.empty(len(x), dtype=torch.float32, device=x.device)
        for expert, rows in enumerate(route.expert_rows):
            scale[rows] = input_scale[expert]
    return QuantisedRows(to_fp8(wide, scale), scale, x.dtype)


def quantise_weight(weight: Tensor, kind: Kind, name: str = "weight") -> tuple[Tensor, Tensor]:
    """A weight [..., N, K] per output channel -> its values, float8_e4m3fn or int8, and its scale [..., N] float32.

    name: what errors call it. Raises ValueError for values that are not finite, NotImplementedError for a kind that is
    not "fp8" or "int8".
    """
    require(kind in ("fp8", "int8"), "cannot quantise to kind {!r}; use fp8 or int8", kind, error=NotImplementedError)
    wrong = int((~weight.isfinite()).sum())
    require(wrong == 0, "{} {} has {} values that are NaN or infinite", name, list(weight.shape), wrong)
    wide = weight.float()
    scale = absmax_scale(wide, FP8_MAX if kind == "fp8" else INT8_MAX)
    return (to_fp8 if kind == "fp8" else to_int8)(wide, scale), scale


def quantise(experts: Experts, kind: Kind, input_scale: Tensor | None = None) -> Experts:
    """Dense experts in fp8 or int8, one scale per output channel and expert. The bias stays as it is.

    Raises ValueError for values or scales that are not finite, TypeError for experts that are quantised already.
    """
    require(experts.kind == "dense", "experts are {} already; quantise dense ones", experts.kind, error=TypeError)
    values, scale = quantise_weight(experts.weight, kind)
    quantised = Experts(values, experts.bias, scale, input_scale)
    check_scales(quantised)
    return quantised


def absmax_scale(x: Tensor, largest: float) -> Tensor:
    """The scale of each row of x [..., K] float32 -> [...]: absmax / largest, 1 for a row of zeros."""
    if x.shape[-1] == 0:
        return x.new_ones(x.shape[:-1])
    absmax = x.abs().amax(-1)
    # Divided by a tensor: by a number, PyTorch multiplies by its reciprocal on a GPU, and other bits come out.
    scale = absmax / torch.full_like(absmax, largest)
    return torch.where(absmax == 0, 1.0, scale.clamp(min=SMALLEST_SCALE))


def to_fp8(x: Tensor, scale: Tensor) -> Tensor:
    """x [..., K] float32 over its rows' scale [...], as float8_e4m3fn. Not finite becomes NaN, which clamping alone
    would make 448.
    """
    scaled = (x * (1 / scale)[..., None]).clamp(-FP8_MAX, FP8_MAX)
    return torch.where(x.isfinite(), scaled, torch.nan).to(FP8)


def to_int8(x: Tensor, scale: Tensor) -> Tensor:
    """x [..., K] float32, finite, over its rows' scale [...], as int8 in -127..127."""
    return (x * (1 / scale)[..., None]).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
