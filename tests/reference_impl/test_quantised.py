"""Quantised weights and rows, and the reference's ops over them, one number at a time."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

import reference_impl
from reference_impl.checks import check_scales
from reference_impl.contract import FP8, Experts, MoTOps, QuantisedRows, Route, upcast
from reference_impl.quantise import quantise, quantise_rows, quantise_weight
from reference_impl.tolerance import judge, truth

OPS = reference_impl.OPS
KINDS = ("fp8", "int8")
kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)


def half_a_step(kind: str, x: Tensor, scale: Tensor) -> Tensor:
    """How far a value may come back from x [rows, K]: fp8 codes are an eighth of the value apart, 2^-9 near 0."""
    return torch.maximum(x.abs() / 16, 2.0**-10 * scale[:, None]) if kind == "fp8" else scale[:, None] / 2


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def experts(kind: str, n: int = 24, k: int = 64, dtype: torch.dtype = torch.bfloat16, seed: int = 1) -> Experts:
    dense = Experts((draw(2, n, k, seed=seed) / k**0.5).to(dtype), draw(2, n, seed=seed + 1).to(dtype))
    return quantise(dense, kind)  # type: ignore[arg-type]


def shuffled(m: int, n_text: int) -> Route:
    return Route(torch.randperm(m, generator=torch.Generator().manual_seed(m)), n_text)


# What is stored.


@kinds
def test_the_largest_value_of_a_channel_gets_the_largest_code(kind):
    values, scale = quantise_weight(draw(5, 40), kind)
    assert values.float().abs().amax(1).tolist() == [448.0 if kind == "fp8" else 127.0] * 5
    assert scale.shape == (5,)


def test_an_int8_row_is_codes_times_its_scale():
    values, scale = quantise_weight(torch.tensor([[0.5, -1.0]]), "int8")
    assert (values.tolist(), scale.item()) == ([[64, -127]], pytest.approx(1 / 127))


def test_an_fp8_row_is_codes_times_its_scale():
    rows = quantise_rows(torch.tensor([[1.0, -2.0]]), Route.all_text(1))
    assert (rows.values.float().tolist(), rows.scale.item()) == ([[224.0, -448.0]], pytest.approx(2 / 448))


@kinds
def test_a_channel_of_zeros_has_scale_one(kind):
    values, scale = quantise_weight(torch.zeros(3, 4), kind)
    assert (values.float().abs().max(), scale.tolist()) == (0, [1.0] * 3)


def test_a_row_of_zeros_has_scale_one():
    rows = quantise_rows(torch.zeros(2, 4), Route.all_text(2))
    assert (rows.values.float().abs().max(), rows.scale.tolist()) == (0, [1.0, 1.0])


def test_an_outlier_channel_costs_its_row_no_more_than_the_step_near_zero():
    x = draw(4, 32)
    x[:, 7] = 1e4
    rows = quantise_rows(x, Route.all_text(4))
    error = (upcast(rows, torch.float32) - x).abs()
    assert (error <= half_a_step("fp8", x, rows.scale) * (1 + 1e-6)).all()
    assert rows.scale.tolist() == [pytest.approx(1e4 / 448)] * 4


def test_a_fixed_scale_is_each_experts_own():
    rows = quantise_rows(
        torch.ones(3, 2), Route.from_mask(torch.tensor([True, False, True])), torch.tensor([0.5, 0.25])
    )
    assert rows.scale.tolist() == [0.25, 0.5, 0.25]
    assert rows.values.float()[:, 0].tolist() == [4, 2, 4]


@pytest.mark.parametrize("value", [500.0, -1e30, 3e38])
def test_what_a_fixed_scale_does_not_reach_is_clamped(value):
    rows = quantise_rows(torch.tensor([[value]]), Route.all_text(1), torch.ones(2))
    assert rows.values.float().item() == math.copysign(448, value)


@pytest.mark.parametrize("value", [1e-40, 1.2e-38, 3e38], ids=["subnormal", "smallest", "largest"])
def test_rows_at_the_ends_of_float32_stay_finite(value):
    stored = upcast(quantise_rows(torch.tensor([[value, -value]]), Route.all_text(1)), torch.float64)
    assert stored.isfinite().all()
    assert float((stored[0, 0] - value).abs()) <= max(value / 16, 2.0**-10 * 2.0**-126)


finite_rows = hnp.arrays(
    "float32", st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-(2.0**120), 2.0**120, width=32)
).map(torch.from_numpy)


@given(x=finite_rows)
@kinds
def test_every_value_comes_back_within_half_a_step(kind, x):
    values, scale = quantise_weight(x, kind)
    back = values.double() * scale.double()[:, None]
    assert ((back - x.double()).abs() <= half_a_step(kind, x.double(), scale.double()) * (1 + 1e-6)).all()


@given(x=finite_rows)
@kinds
def test_codes_of_what_codes_stand_for_are_the_same(kind, x):
    values, scale = quantise_weight(x, kind)
    again, _ = quantise_weight(values.float() * scale[:, None], kind)
    # A largest value that underflowed to a subnormal number has a coarser step than codes have.
    kept = x.abs().amax(1) > 1e-30
    assert again[kept].float().equal(values[kept].float())


# What is computed from it.


@dtypes
@kinds
def test_linear_is_the_sum_of_code_products_times_the_scales_and_the_bias(kind, dtype):
    layer, route = experts(kind, dtype=dtype), shuffled(7, 3)
    x = draw(7, 64).to(dtype)
    rows = quantise_rows(x, route) if kind == "fp8" else x
    values, row_scale = (rows.values, rows.scale) if isinstance(rows, QuantisedRows) else (rows, torch.ones(7))
    owner = [0 if row in route.text_rows.tolist() else 1 for row in range(7)]
    expected = torch.stack(
        [
            (layer.weight[e].double() @ values[row].double()) * row_scale[row] * layer.scale[e].double() + layer.bias[e]
            for row, e in enumerate(owner)
        ]
    )
    torch.testing.assert_close(OPS.linear(rows, layer, route), expected.to(dtype))


def test_linear_quantises_rows_that_are_not():
    layer, route, x = experts("fp8"), shuffled(9, 4), draw(9, 64).bfloat16()
    assert OPS.linear(x, layer, route).equal(OPS.linear(quantise_rows(x, route), layer, route))


def test_linear_quantises_by_the_experts_fixed_scale():
    route, x, fixed = shuffled(9, 4), draw(9, 64).bfloat16(), torch.tensor([0.01, 0.02])
    layer = dataclasses.replace(experts("fp8"), input_scale=fixed)
    assert OPS.linear(x, layer, route).equal(OPS.linear(quantise_rows(x, route, fixed), layer, route))


@pytest.mark.parametrize("fixed", [None, torch.tensor([0.02, 0.03])], ids=["own scales", "fixed scales"])
def test_the_quantising_norms_quantise_the_rounded_norm(fixed):
    x, other, gain, route = (
        draw(9, 32).bfloat16(),
        draw(9, 32, seed=2).bfloat16(),
        torch.ones(2, 32).bfloat16(),
        shuffled(9, 4),
    )
    total, normed = OPS.add_rms_norm(x, other, gain, route, 1e-6)
    s, rows = OPS.offered("quantised_add_rms_norm")(x, other, gain, route, 1e-6, fixed)
    expected = quantise_rows(normed, route, fixed)
    assert (s.equal(total), rows.values.float().equal(expected.values.float()), rows.scale.equal(expected.scale)) == (
        True, True, True,
    )  # fmt: skip
    alone = OPS.offered("quantised_rms_norm")(total, gain, route, 1e-6, fixed)
    assert alone.values.float().equal(rows.values.float())


@kinds
def test_gated_mlp_is_its_parts(kind):
    gate_up, down, route = experts(kind, 80, 64), experts(kind, 64, 40, seed=5), shuffled(9, 4)
    x = draw(9, 64).bfloat16()
    gated = OPS.gated_linear(x, gate_up, route)
    assert OPS.gated_mlp(x, gate_up, down, route).equal(OPS.linear(gated, down, route))


@dtypes
@kinds
def test_linear_is_close_to_the_truth_about_what_is_stored(kind, dtype):
    layer, route = experts(kind, k=512, dtype=dtype), shuffled(33, 5)
    x = draw(33, 512).to(dtype)
    given_rows = quantise_rows(x, route) if kind == "fp8" else x
    made = OPS.linear(given_rows, layer, route)
    exact = truth(OPS.linear, given_rows, layer, route, dtype=dtype)
    assert judge(made, exact.to(dtype), exact, terms=512).ok


@pytest.mark.parametrize(("kind", "least", "most"), [("fp8", 0.03, 0.045), ("int8", 0.004, 0.012)], ids=KINDS)
def test_the_error_of_quantising_normal_numbers(kind, least, most):
    dense = Experts(draw(2, 256, 1024))
    x, route = draw(64, 1024), shuffled(64, 5)
    exact = OPS.linear(x, dense, route)
    error = OPS.linear(x, quantise(dense, kind), route) - exact
    assert least < float(error.norm() / exact.norm()) < most


@pytest.mark.parametrize("m", [0, 1, 2, 17])
@kinds
def test_any_number_of_rows(kind, m):
    layer, route = experts(kind), shuffled(m, m // 2)
    x = draw(m, 64).bfloat16()
    assert OPS.linear(x, layer, route).shape == (m, 24)
    assert OPS.gated_mlp(x, experts(kind, 80), experts(kind, 64, 40), route).shape == (m, 64)


@kinds
def test_equal_experts_are_one_layer(kind):
    layer = experts(kind)
    layer = dataclasses.replace(
        layer, **{name: getattr(layer, name)[:1].repeat_interleave(2, 0) for name in ("weight", "bias", "scale")}
    )
    x = draw(9, 64).bfloat16()
    assert OPS.linear(x, layer, shuffled(9, 4)).equal(OPS.linear(x, layer, Route.all_text(9)))


@pytest.mark.parametrize("fixed", [None, torch.tensor([0.02, 0.03])], ids=["own scales", "fixed scales"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_row_that_is_not_finite_spoils_its_own_results_only(value, fixed):
    layer, route, x = dataclasses.replace(experts("fp8"), input_scale=fixed), shuffled(5, 2), draw(5, 64).bfloat16()
    clean = OPS.linear(x, layer, route)
    x[2, 3] = value
    spoiled = OPS.linear(x, layer, route)
    others = [0, 1, 3, 4]
    assert spoiled[2].isnan().all()
    assert spoiled[others].equal(clean[others])


# What is refused.

FP8_LAYER, INT8_LAYER, DENSE = experts("fp8"), experts("int8"), Experts(torch.zeros(2, 24, 64).bfloat16())
ROUTE, X = Route.all_text(3), torch.zeros(3, 64).bfloat16()
ROWS = quantise_rows(X, ROUTE)
ONES = torch.ones(2, 24)


def changed(layer: Experts, **fields: object) -> Experts:
    return dataclasses.replace(layer, **fields)


VALUE_ERRORS = {
    "fp8-without-scale": (lambda: Experts(FP8_LAYER.weight), "float8_e4m3fn .* and scale is missing"),
    "int8-without-scale": (lambda: Experts(INT8_LAYER.weight), "int8 .* and scale is missing"),
    "dense-with-scale": (lambda: Experts(DENSE.weight, scale=ONES), r"bfloat16 \(dense\) and scale is given"),
    "scale-of-another-shape": (
        lambda: changed(FP8_LAYER, scale=torch.ones(2, 23)),
        r"scale has shape \(2, 23\) but must be \[2, 24\]",
    ),
    "one-scale-for-a-layer": (lambda: changed(INT8_LAYER, scale=torch.ones(2)), r"shape \(2,\) but must be \[2, 24\]"),
    "input-scale-of-int8": (
        lambda: changed(INT8_LAYER, input_scale=torch.ones(2)),
        "int8.*input_scale is given; only fp8",
    ),
    "input-scale-of-dense": (lambda: changed(DENSE, input_scale=torch.ones(2)), "dense.*input_scale is given"),
    "input-scale-of-another-shape": (
        lambda: changed(FP8_LAYER, input_scale=torch.ones(1)),
        r"input_scale has shape \(1,\) but must be \[2\]",
    ),
    "row-scale-of-another-shape": (
        lambda: QuantisedRows(ROWS.values, torch.ones(2), torch.bfloat16),
        r"scale has shape \(2,\) but must be \[3\]",
    ),
    "scale-zero": (lambda: check_scales(changed(FP8_LAYER, scale=ONES * 0), "o"), "o has 48 scale of 48 .* first 0"),
    "scale-negative": (lambda: check_scales(changed(INT8_LAYER, scale=-ONES)), "first -1"),
    "scale-nan": (lambda: check_scales(changed(FP8_LAYER, scale=ONES * math.nan)), "first nan"),
    "scale-infinite": (lambda: check_scales(changed(FP8_LAYER, scale=ONES * math.inf)), "first inf"),
    "input-scale-zero": (
        lambda: check_scales(changed(FP8_LAYER, input_scale=torch.tensor([1.0, 0.0]))),
        "1 input_scale of 2",
    ),
    "weight-not-finite": (
        lambda: quantise(Experts(torch.full((2, 3, 4), math.nan)), "fp8"),
        "24 values that are NaN or infinite",
    ),
    "k-differs": (lambda: OPS.linear(ROWS, experts("fp8", k=32), ROUTE), "x has K=64 but weight has K=32"),
    "rows-differ": (lambda: OPS.linear(ROWS, FP8_LAYER, Route.all_text(2)), "x has 3 rows but the route has 2"),
    "input-scale-of-three-experts": (
        lambda: OPS.offered("quantise_rows")(X, ROUTE, torch.ones(3)),
        r"input_scale has shape \(3,\) but must be \[2\]",
    ),
}

TYPE_ERRORS = {
    "mixed-pair": (
        lambda: Experts.of((FP8_LAYER.weight[0], None), (INT8_LAYER.weight[1], None), (ONES[0], ONES[1])),
        "text weight is torch.float8_e4m3fn but image weight torch.int8; both experts must be of one kind",
    ),
    "pair-of-dense-and-fp8": (
        lambda: Experts.of((DENSE.weight[0], None), (FP8_LAYER.weight[1], None)),
        "text weight is torch.bfloat16 but image weight torch.float8_e4m3fn",
    ),
    "quantised-rows-to-int8": (
        lambda: OPS.linear(ROWS, INT8_LAYER, ROUTE),
        "but the experts are int8",
    ),
    "quantised-rows-to-dense": (lambda: OPS.linear(ROWS, DENSE, ROUTE), "but the experts are dense"),
    "scale-in-half": (
        lambda: changed(FP8_LAYER, scale=ONES.half()),
        "scale is torch.float16 but must be",
    ),
    "bias-quantised-too": (lambda: changed(FP8_LAYER, bias=ONES.to(FP8)), "bias is torch.float8_e4m3fn"),
    "bias-in-another-dtype-than-x": (
        lambda: OPS.linear(X.float(), INT8_LAYER, ROUTE),
        "bias is torch.bfloat16 but x is torch.float32",
    ),
    "quantised-twice": (lambda: quantise(FP8_LAYER, "int8"), "experts are fp8 already"),
    "values-of-another-dtype": (lambda: QuantisedRows(X, torch.ones(3), torch.bfloat16), "values are torch.bfloat16"),
    "x-of-8-bits": (lambda: OPS.linear(ROWS.values, DENSE, ROUTE), "x is torch.float8_e4m3fn but must be floating"),
}

UNSUPPORTED = {
    "e5m2-weight": (lambda: Experts(DENSE.weight.to(torch.float8_e5m2), scale=ONES), "weight is torch.float8_e5m2"),
    "int32-weight": (lambda: Experts(INT8_LAYER.weight.int(), scale=ONES), "weight is torch.int32"),
    "unknown-kind": (lambda: quantise(DENSE, "int4"), "cannot quantise to kind 'int4'"),
    "op-that-a-third-party-lacks": (
        lambda: MoTOps("theirs", *[None] * 10).offered("quantise_rows"),
        "implementation 'theirs' has no quantise_rows",
    ),
}


@pytest.mark.parametrize(("call", "message"), VALUE_ERRORS.values(), ids=VALUE_ERRORS.keys())
def test_scales_and_shapes_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), TYPE_ERRORS.values(), ids=TYPE_ERRORS.keys())
def test_mixes_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_there_is_none_of_is_named(call, message):
    with pytest.raises(NotImplementedError, match=message):
        call()
