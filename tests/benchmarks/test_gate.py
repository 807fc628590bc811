"""The parity gate: it passes the reference and finds every fault that a fused kernel is likely to have."""

import dataclasses
from functools import partial

import pytest
import torch

import reference_impl
from benchmarks.harness.gate import op_parity, prove
from benchmarks.harness.inputs import CASES, WORK, Case, Work, arguments
from benchmarks.harness.shapes import SMALL
from reference_impl.contract import Experts, MoTOps, Route

REFERENCE = reference_impl.OPS
BFLOAT16 = torch.bfloat16
CASE = CASES["rows_shuffled"]
LONG = Case("long_sum", dataclasses.replace(SMALL.rows(32, 16), hidden=18944), bias="both")
"""The longest sum of BAGEL, where a lost tile is the smallest part of the whole."""


def broken(**changes: object) -> MoTOps:
    return dataclasses.replace(REFERENCE, name="broken", **changes)


def lost_tile(x, experts, route, columns=64):
    x = x.clone()
    x[:, -columns:] = 0
    return REFERENCE.linear(x, experts, route)


def wrong_expert(x, experts, route):
    """The last text row goes to the image expert."""
    return REFERENCE.linear(x, experts, Route(route.rows, route.n_text - 1))


def no_bias(x, experts, route):
    return REFERENCE.linear(x, Experts(experts.weight), route)


def no_image_bias(x, experts, route):
    bias = torch.stack([experts.bias[0], torch.zeros_like(experts.bias[1])])
    return REFERENCE.linear(x, Experts(experts.weight, bias), route)


def unwritten_row(x, experts, route):
    y = REFERENCE.linear(x, experts, route)
    y[-1] = 0
    return y


def swapped_rows(x, experts, route):
    y = REFERENCE.linear(x, experts, route)
    return y[[1, 0, *range(2, len(y))]]


def summed_in_bfloat16(x, experts, route):
    """Partial sums of 256 columns, rounded each time."""
    parts = [
        REFERENCE.linear(x[:, k : k + 256], Experts(experts.weight[:, :, k : k + 256]), route)
        for k in range(0, x.shape[1], 256)
    ]
    bias = REFERENCE.linear(x * 0, experts, route)
    return sum(parts, start=bias)


LINEAR_FAULTS = [
    lost_tile,
    partial(lost_tile, columns=1),
    wrong_expert,
    no_bias,
    no_image_bias,
    unwritten_row,
    swapped_rows,
]


def fault_id(fault) -> str:
    return "lost_column" if isinstance(fault, partial) else fault.__name__


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_reference_agrees_with_itself(case):
    """In float16, where a case that overflowed would show."""
    assert all(found.ok for found in op_parity(REFERENCE, case, torch.float16, "cpu"))


@pytest.mark.parametrize("case", [CASE, LONG, CASES["outliers"]], ids=lambda case: case.name)
@pytest.mark.parametrize("fault", LINEAR_FAULTS, ids=fault_id)
def test_a_fault_of_linear_is_found_in_bfloat16(fault, case):
    with pytest.raises(RuntimeError, match=r"broken linear disagrees with the reference"):
        prove(broken(linear=fault), "linear", arguments(Work("linear", "qkv"), case, BFLOAT16, "cpu"))


def test_sums_rounded_on_the_way_are_found():
    with pytest.raises(RuntimeError, match=r"disagrees"):
        prove(broken(linear=summed_in_bfloat16), "linear", arguments(Work("linear", "qkv"), LONG, BFLOAT16, "cpu"))


def one_gain(x, gain, route, eps):
    return REFERENCE.rms_norm(x, gain[[1, 1]], route, eps)


def no_eps(x, gain, route, eps):
    return REFERENCE.rms_norm(x * 1e-3, gain, route, eps)


def gate_and_up_swapped(x, gate_up, route):
    half = gate_up.n_out // 2
    return REFERENCE.gated_linear(x, Experts(gate_up.weight.roll(half, 1), gate_up.bias.roll(half, 1)), route)


def top_left_causal(q, k, v, causal):
    return REFERENCE.attention(q, k[: len(q)], v[: len(q)], causal)


def unrotated(qkv, norm, table, route):
    still = dataclasses.replace(table, cos=torch.ones_like(table.cos), sin=torch.zeros_like(table.sin))
    return REFERENCE.qk_norm_rotary(qkv, norm, still, route)


def copied_k(qkv, norm, table, route):
    q, _, v = REFERENCE.qk_norm_rotary(qkv, norm, table, route)
    return q, v.clone(), v


@pytest.mark.parametrize(
    ("work", "fault"),
    [
        (Work("rms_norm"), one_gain),
        (Work("rms_norm"), no_eps),
        (Work("gated_linear"), gate_and_up_swapped),
        (Work("attention", "causal"), top_left_causal),
        (Work("qk_norm_rotary"), unrotated),
        (Work("qk_norm_rotary"), copied_k),
    ],
    ids=lambda value: value.name if isinstance(value, Work) else value.__name__,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_fault_of_another_op_is_found(work, fault, dtype):
    with pytest.raises(RuntimeError, match=rf"broken {work.op} disagrees"):
        prove(broken(**{work.op: fault}), work.op, arguments(work, CASE, dtype, "cpu"))


def test_the_message_names_the_inputs_and_the_limits():
    with pytest.raises(
        RuntimeError, match=r"x \(150, 256\) bfloat16 on cpu: worst .* \(limit .*\), RMS .*; nothing is measured"
    ):
        prove(broken(linear=no_bias), "linear", arguments(Work("linear", "qkv"), CASE, BFLOAT16, "cpu"))


def test_proof_returns_how_close_it_was():
    assert prove(REFERENCE, "linear", arguments(Work("linear", "qkv"), CASE, BFLOAT16, "cpu")).ok


def test_a_record_of_every_piece_of_work_is_returned():
    found = op_parity(REFERENCE, CASES["one_text_row"], torch.float32, "cpu")
    assert [record.op for record in found] == [work.name for work in WORK]


def test_a_fault_is_a_record_that_is_not_ok():
    found = op_parity(broken(linear=no_bias), CASE, torch.float32, "cpu")
    assert {record.op for record in found if not record.ok} == {
        f"linear/{name}" for name in ("qkv", "o", "gate_up", "down")
    }


def test_the_precision_of_float32_is_left_as_it_was():
    torch.set_float32_matmul_precision("medium")
    try:
        prove(REFERENCE, "rms_norm", arguments(Work("rms_norm"), CASE, torch.float32, "cpu"))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
