"""What equal means for rows in fp8: a code that flips at a boundary is right, one that is not the nearest is wrong."""

import math

import pytest
import torch
from torch import Tensor

from reference_impl.contract import FP8, QuantisedRows, Route
from reference_impl.norm import quantised_rms_norm, rms_norm
from reference_impl.quantise import quantise_rows
from reference_impl.tolerance import judge_quantised, truth

M, K = 64, 512
ROUTE = Route.image_then_text(M - 5, 5)
GAIN = torch.stack([torch.ones(K), torch.full((K,), 1.5)])
dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)


def normed(dtype: torch.dtype = torch.bfloat16) -> tuple[QuantisedRows, Tensor, Tensor]:
    """The reference's quantised norm, the norm in `dtype` and the exact one."""
    x = torch.randn(M, K, generator=torch.Generator().manual_seed(0)).to(dtype)
    args = (x, GAIN.to(dtype), ROUTE, 1e-6)
    return quantised_rms_norm(*args), rms_norm(*args), truth(rms_norm, *args, dtype=dtype)


def with_codes(rows: QuantisedRows, values: Tensor) -> QuantisedRows:
    return QuantisedRows(values.to(FP8), rows.scale, rows.dtype)


@dtypes
def test_the_reference_is_close(dtype):
    reference, _, exact = normed(dtype)
    assert judge_quantised(reference, reference, exact).ok


@dtypes
def test_a_norm_rounded_the_other_way_is_close_though_codes_flip(dtype):
    reference, rounded, exact = normed(dtype)
    other = torch.nextafter(rounded, exact.to(dtype) + torch.sign(exact.double() - rounded.double()).to(dtype))
    # Nearly half way between two numbers of the dtype, where the order of a sum decides.
    half_way = (other.double() - exact.double()).abs() <= 0.6 * (other.double() - rounded.double()).abs()
    ours = quantise_rows(torch.where(half_way, other, rounded), ROUTE)
    if dtype != torch.float32:
        assert not ours.values.float().equal(reference.values.float())
    assert judge_quantised(ours, reference, exact).ok


def test_the_next_code_is_not_close():
    reference, _, exact = normed()
    values = reference.values.float()
    values[3, 7] = values[3, 7] * 9 / 8
    assert not judge_quantised(with_codes(reference, values), reference, exact).ok


def test_codes_rounded_towards_zero_are_not_close():
    reference, rounded, exact = normed()
    scaled = rounded.float() / reference.scale[:, None]
    step = torch.exp2(scaled.abs().clamp(min=2.0**-6).log2().floor() - 3)
    assert not judge_quantised(with_codes(reference, (scaled / step).trunc() * step), reference, exact).ok


def test_the_other_experts_gain_is_not_close():
    reference, rounded, exact = normed()
    wrong = rounded.clone()
    wrong[0] *= 1.5
    assert not judge_quantised(quantise_rows(wrong, ROUTE), reference, exact).ok


def test_a_scale_that_wastes_half_the_codes_is_not_close():
    reference, _, exact = normed()
    doubled = QuantisedRows((reference.values.float() / 2).to(FP8), reference.scale * 2, reference.dtype)
    assert not judge_quantised(doubled, reference, exact).ok


def test_another_fixed_scale_is_not_close():
    fixed = torch.tensor([0.01, 0.02])
    _, rounded, exact = normed()
    reference, swapped = quantise_rows(rounded, ROUTE, fixed), quantise_rows(rounded, ROUTE, fixed.flip(0))
    assert judge_quantised(reference, reference, exact, reference.scale).ok
    assert not judge_quantised(swapped, reference, exact, reference.scale).ok


def test_values_that_a_fixed_scale_clamps_are_close():
    _, rounded, exact = normed()
    reference = quantise_rows(rounded, ROUTE, torch.tensor([1e-3, 1e-3]))
    assert reference.values.float().abs().max() == 448
    assert judge_quantised(reference, reference, exact, reference.scale).ok


def test_of_a_row_that_is_not_finite_only_that_matters():
    reference, rounded, exact = normed()
    rounded[3, 7], exact[3, 7] = math.inf, math.inf
    other = quantise_rows(rounded, ROUTE)
    values = reference.values.float()
    values[3] = math.nan
    ours = QuantisedRows(values.to(FP8), other.scale.nan_to_num(posinf=1.0), other.dtype)
    assert judge_quantised(ours, other, exact).ok
    assert not judge_quantised(reference, other, exact).ok


def test_a_row_of_zeros_is_close():
    rows = quantise_rows(torch.zeros(3, 8), Route.all_text(3))
    assert judge_quantised(rows, rows, torch.zeros(3, 8, dtype=torch.float64)).ok


def test_no_rows_are_equal():
    rows = quantise_rows(torch.zeros(0, 8), Route.all_text(0))
    assert judge_quantised(rows, rows, torch.zeros(0, 8)).ok


def test_other_shapes_are_refused():
    reference, _, exact = normed()
    with pytest.raises(ValueError, match="shapes and dtypes must agree"):
        judge_quantised(reference, reference, exact[1:])
