"""The rule that says what equal means: what it lets pass and what it does not."""

import math

import pytest
import torch

from reference_impl.tolerance import UNIT_ROUNDOFF, judge

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def exact() -> torch.Tensor:
    return torch.randn(64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_the_rounded_truth_is_close(exact, dtype):
    assert judge(exact.to(dtype), exact.to(dtype), exact).ok


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_the_rounded_truth_is_close_where_the_reference_is_exact(dtype):
    exact = torch.full((4, 8), 1 + UNIT_ROUNDOFF[dtype] / 2, dtype=torch.float64)
    rounded = exact.to(dtype)
    assert judge(rounded, rounded, rounded.double()).ok


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_three_roundoffs_are_not_close(exact, dtype):
    assert not judge((exact * (1 + 3 * UNIT_ROUNDOFF[dtype])).to(dtype), exact.to(dtype), exact).ok


def test_a_sum_in_another_order_is_close_in_float32():
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(4, 4096, generator=generator), torch.randn(32, 4096, generator=generator)
    running = torch.zeros(4, 32)
    for k in range(4096):
        running += x[:, k, None] * w[None, :, k]
    assert judge(running, x @ w.T, x.double() @ w.double().T, terms=4096).ok


def test_products_rounded_to_tf32_are_not_close():
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(4, 18944, generator=generator), torch.randn(32, 18944, generator=generator)
    x_tf32, w_tf32 = ((tensor.view(torch.int32) & ~0x1FFF).view(torch.float32) for tensor in (x, w))
    assert not judge(x_tf32 @ w_tf32.T, x @ w.T, x.double() @ w.double().T, terms=18944).ok


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("columns", [1, 64])
def test_a_sum_that_lost_columns_is_not_close(dtype, columns):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(16, 18944, generator=generator).to(dtype) for _ in range(2))
    exact = x.float() @ w.float().T
    lost = x.float()[:, columns:] @ w.float()[:, columns:].T
    assert not judge(lost.to(dtype), exact.to(dtype), exact, terms=18944).ok


def test_a_large_row_does_not_hide_a_wrong_one(exact):
    exact[3] *= 1e4
    wrong = exact.clone()
    wrong[7] = exact[8]
    assert not judge(wrong.bfloat16(), exact.bfloat16(), exact).ok


def test_one_wrong_value_is_not_close(exact):
    wrong = exact.float()
    wrong[5, 5] += 0.01
    assert not judge(wrong, exact.float(), exact).ok


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
def test_a_value_that_is_not_finite_where_the_truth_is_is_not_close(exact, value):
    wrong = exact.float()
    wrong[5, 5] = value
    found = judge(wrong, exact.float(), exact)
    assert (found.ok, found.worst) == (False, math.inf)


def test_nan_where_the_truth_is_nan_is_close(exact):
    exact[2, 2] = math.nan
    assert judge(exact.float(), exact.float(), exact).ok


def test_a_number_where_the_truth_is_nan_is_not_close(exact):
    exact[2, 2] = math.nan
    assert not judge(exact.float().nan_to_num(), exact.float(), exact).ok


def test_infinity_of_the_other_sign_is_not_close(exact):
    exact[2, 2] = math.inf
    wrong = exact.float()
    wrong[2, 2] = -math.inf
    assert not judge(wrong, exact.float(), exact).ok


def test_float16_may_overflow_where_the_truth_exceeds_it():
    exact = torch.tensor([[1.0, 70000.0]], dtype=torch.float64)
    assert judge(exact.half(), exact.half(), exact).ok


def test_a_row_of_zeros_must_be_zeros(exact):
    exact[4] = 0
    wrong = exact.float()
    wrong[4, 0] = 1e-6
    assert not judge(wrong, exact.float(), exact).ok


def test_a_reference_that_is_not_finite_grants_nothing(exact):
    broken = exact.float()
    broken[0, 0] = math.inf
    assert not judge(exact.float(), broken, exact).ok


def test_nothing_is_equal_to_nothing():
    empty = torch.zeros(0, 4)
    assert judge(empty, empty, empty.double()).ok


def test_another_shape_is_refused(exact):
    with pytest.raises(ValueError, match=r"\(64, 95\) torch.float32 with \(64, 96\)"):
        judge(exact.float()[:, 1:], exact.float(), exact)


def test_another_dtype_is_refused(exact):
    with pytest.raises(ValueError, match=r"torch.float16 with .* torch.float32"):
        judge(exact.half(), exact.float(), exact)
