"""What the objects of the contract and the doors of the ops refuse: both values and the cure in the message."""

import pytest
import torch

import reference_impl
from reference_impl.contract import Experts, QKNorm, Rotary, Route

OPS = reference_impl.OPS
ROUTE = Route.all_text(3)
EXPERTS = Experts(torch.zeros(2, 6, 4))
TABLE = Rotary.at(torch.arange(3), 4, 1e4)
NORM = QKNorm(torch.ones(2, 4), torch.ones(2, 4), 2, 1, 1e-6)


def test_an_expert_without_a_bias_gets_zeros():
    weight = torch.zeros(6, 4)
    experts = Experts.of((weight, torch.ones(6)), (weight, None))
    assert experts.bias.tolist() == [[1.0] * 6, [0.0] * 6]


def test_two_experts_without_a_bias_have_none():
    assert Experts.of((torch.zeros(6, 4), None), (torch.zeros(6, 4), None)).bias is None


REFUSALS = {
    "weight-not-stacked": (
        lambda: Experts(torch.zeros(6, 4)),
        r"weight has shape \(6, 4\); weight must be \[2, N, K\]",
    ),
    "bias-of-another-width": (lambda: Experts(torch.zeros(2, 6, 4), torch.zeros(2, 5)), r"bias has shape \(2, 5\)"),
    "experts-of-two-shapes": (
        lambda: Experts.of((torch.zeros(6, 4), None), (torch.zeros(6, 5), None)),
        r"text weight is \(6, 4\) but image weight \(6, 5\)",
    ),
    "heads-that-do-not-divide": (
        lambda: QKNorm(torch.ones(2, 4), torch.ones(2, 4), 3, 2, 1e-6),
        "3 query heads do not divide among 2",
    ),
    "k-differs": (lambda: OPS.linear(torch.zeros(3, 5), EXPERTS, ROUTE), "x has K=5 but weight has K=4"),
    "rows-differ": (lambda: OPS.linear(torch.zeros(2, 4), EXPERTS, ROUTE), "x has 2 rows but the route has 3"),
    "x-not-a-matrix": (lambda: OPS.linear(torch.zeros(3, 2, 4), EXPERTS, ROUTE), r"must be \[M, K\]"),
    "gate-up-odd": (
        lambda: OPS.gated_linear(torch.zeros(3, 4), Experts(torch.zeros(2, 5, 4)), ROUTE),
        "N=5 rows; it must be even",
    ),
    "down-of-another-width": (
        lambda: OPS.gated_mlp(torch.zeros(3, 4), EXPERTS, EXPERTS, ROUTE),
        "down has K=4 but gate_up has N=6",
    ),
    "gain-of-another-width": (
        lambda: OPS.rms_norm(torch.zeros(3, 4), torch.ones(2, 5), ROUTE, 1e-6),
        r"gain has shape \(2, 5\) but must be \[2, 4\]",
    ),
    "other-of-another-shape": (
        lambda: OPS.add_rms_norm(torch.zeros(3, 4), torch.zeros(3, 5), torch.ones(2, 4), ROUTE, 1e-6),
        r"other is \(3, 5\) but x \(3, 4\)",
    ),
    "heads-without-an-axis": (
        lambda: OPS.head_rms_norm(torch.zeros(3, 4), torch.ones(2, 4), ROUTE, 1e-6),
        r"must be \[M, heads, d\]",
    ),
    "table-of-other-rows": (lambda: OPS.rotary(torch.zeros(2, 1, 4), TABLE), r"table is \(3, 4\)"),
    "odd-head": (
        lambda: OPS.rotary(torch.zeros(3, 1, 5), Rotary(torch.zeros(3, 5), torch.zeros(3, 5))),
        "head width 5 is odd",
    ),
    "qkv-of-another-width": (
        lambda: OPS.qk_norm_rotary(torch.zeros(3, 15), NORM, TABLE, ROUTE),
        "qkv has width 15 .* need 16",
    ),
    "odd-qk-head": (
        lambda: OPS.qk_norm_rotary(
            torch.zeros(3, 12),
            QKNorm(torch.ones(2, 3), torch.ones(2, 3), 2, 1, 1e-6),
            Rotary(torch.zeros(3, 3), torch.zeros(3, 3)),
            ROUTE,
        ),
        "head width 3 is odd",
    ),
    "more-queries-than-keys": (
        lambda: OPS.attention(torch.zeros(4, 2, 4), torch.zeros(3, 1, 4), torch.zeros(3, 1, 4), False),
        "q has 4 rows but k only 3",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_shapes_that_disagree_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


DTYPES = {
    "weight-in-another-dtype": (
        lambda: OPS.linear(torch.zeros(3, 4), Experts(torch.zeros(2, 6, 4).half()), ROUTE),
        "weight is torch.float16 but x is torch.float32",
    ),
    "integer-x": (lambda: OPS.rms_norm(torch.zeros(3, 4).long(), torch.ones(2, 4), ROUTE, 1e-6), "torch.int64"),
    "other-in-another-dtype": (
        lambda: OPS.add_rms_norm(torch.zeros(3, 4), torch.zeros(3, 4).half(), torch.ones(2, 4), ROUTE, 1e-6),
        "other is torch.float16 but x is torch.float32",
    ),
    "bias-in-another-dtype": (lambda: Experts(torch.zeros(2, 6, 4), torch.zeros(2, 6).half()), "bias is torch.float16"),
    "k-in-another-dtype": (
        lambda: OPS.attention(torch.zeros(3, 1, 4), torch.zeros(3, 1, 4).half(), torch.zeros(3, 1, 4), False),
        "k is torch.float16 but x is torch.float32",
    ),
}


@pytest.mark.parametrize(("call", "message"), DTYPES.values(), ids=DTYPES.keys())
def test_dtypes_that_disagree_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()
