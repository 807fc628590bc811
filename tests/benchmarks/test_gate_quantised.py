"""The parity gate on quantised experts: what is proven of each kind before anything is measured."""

import dataclasses

import pytest
import torch

import reference_impl
from benchmarks.harness.gate import UNQUANTISED, compare, prove
from benchmarks.harness.inputs import CASES, Work, arguments, quantised
from reference_impl.contract import QuantisedRows

REFERENCE = reference_impl.OPS
CASE = CASES["rows_shuffled"]
LINEAR = Work("linear", "o")
KINDS = ("fp8", "int8")
SCALES = {"scale_of_each_row": None, "scales_of_the_experts": torch.tensor([0.01, 0.02])}


def given(work: Work, kind: str = "dense"):
    return quantised(arguments(work, CASE, torch.bfloat16, "cpu"), kind)


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES.keys())
@pytest.mark.parametrize("op", UNQUANTISED)
def test_an_op_that_quantises_agrees_with_itself(op, scales):
    assert compare(REFERENCE, op, (*given(Work(op))[:-1], scales)).ok


def coarser(rows: QuantisedRows) -> QuantisedRows:
    """The same rows with a bit less."""
    return dataclasses.replace(rows, values=(rows.values.float() / 8).round().mul(8).to(rows.values.dtype))


def rescaled(rows: QuantisedRows) -> QuantisedRows:
    return dataclasses.replace(rows, scale=rows.scale * 1.01)


@pytest.mark.parametrize("fault", [coarser, rescaled])
@pytest.mark.parametrize("op", ["quantise_rows", "quantised_rms_norm"])
def test_an_op_that_quantises_wrongly_is_found(op, fault):
    broken = dataclasses.replace(REFERENCE, **{op: lambda *inputs: fault(getattr(REFERENCE, op)(*inputs))})
    with pytest.raises(RuntimeError, match=f"reference {op} disagrees"):
        prove(broken, op, given(Work(op)))


def test_a_wrong_sum_beside_rows_in_fp8_is_found():
    def op(x, other, *more):
        total, rows = REFERENCE.quantised_add_rms_norm(x, other, *more)
        return total * 1.01, rows

    broken = dataclasses.replace(REFERENCE, quantised_add_rms_norm=op)
    assert not compare(broken, "quantised_add_rms_norm", given(Work("quantised_add_rms_norm"))).ok


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_held_to_what_their_codes_stand_for(kind):
    """Quantising costs 0.4 to 4 % of a value, which no half-precision limit would let pass."""
    assert compare(REFERENCE, "linear", given(LINEAR, kind)).limit_rms < 0.003


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_scale_of_one_channel_is_found(kind):
    x, experts, route = given(LINEAR, kind)

    def linear(x, experts, route):
        scale = experts.scale.clone()
        scale[0, 3] *= 1.1
        return REFERENCE.linear(x, dataclasses.replace(experts, scale=scale), route)

    assert not compare(dataclasses.replace(REFERENCE, linear=linear), "linear", (x, experts, route)).ok


def test_sums_of_the_tensor_cores_are_held_to_pytorchs_with_the_same():
    def short_sums(x, experts, route):
        y = REFERENCE.linear(x, experts, route)
        return y + y.abs().amax(1, keepdim=True) * 0.02 * torch.randn(
            y.shape, generator=torch.Generator().manual_seed(0)
        )

    fast = dataclasses.replace(REFERENCE, linear=lambda *inputs: short_sums(*inputs).bfloat16())
    inputs = given(LINEAR, "fp8")
    assert (compare(fast, "linear", inputs).ok, compare(fast, "linear", inputs, fast.linear).ok) == (False, True)


@pytest.mark.parametrize(
    ("kind", "of_x", "of_weights"), [("fp8", "QuantisedRows", torch.float8_e4m3fn), ("int8", "Tensor", torch.int8)]
)
def test_rows_are_quantised_for_fp8_only(kind, of_x, of_weights):
    x, experts, _ = given(LINEAR, kind)
    assert (type(x).__name__, experts.weight.dtype) == (of_x, of_weights)


def test_dense_arguments_stay_as_they_are():
    inputs = arguments(LINEAR, CASE, torch.bfloat16, "cpu")
    assert quantised(inputs, "dense") is inputs
