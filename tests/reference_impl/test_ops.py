"""The reference against naive loops: one token at a time, in float64."""

import math

import pytest
import torch

import reference_impl
from benchmarks.harness.inputs import CASES, EPS, WORK, Draw, Work, arguments
from reference_impl.contract import Experts, QKNorm, Rotary, Route

OPS = reference_impl.OPS
DRAWS = [
    Draw(CASES[name], torch.float64, torch.device("cpu")) for name in ("odd_widths", "text_at_ends", "one_text_row")
]


@pytest.fixture(params=DRAWS, ids=lambda draw: draw.case.name)
def draw(request) -> Draw:
    return request.param


def expert_of(route: Route) -> dict[int, int]:
    return {row: expert for expert, rows in enumerate(route.expert_rows) for row in rows.tolist()}


def layer(x: torch.Tensor, experts: Experts, route: Route) -> torch.Tensor:
    owner = expert_of(route)
    rows = [experts.weight[owner[row]] @ x[row] + experts.bias[owner[row]] for row in range(len(x))]
    return torch.stack(rows)


def normed(head: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    return head / math.sqrt(sum(float(value) ** 2 for value in head) / len(head) + eps) * gain


def turned(head: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = len(head) // 2
    partner = torch.cat([-head[half:], head[:half]])
    return head * cos + partner * sin


def test_linear_is_each_row_through_its_experts_layer(draw):
    x, experts, route = arguments(Work("linear", "qkv"), draw.case, torch.float64, "cpu")
    torch.testing.assert_close(OPS.linear(x, experts, route), layer(x, experts, route))


def test_rms_norm_is_each_row_over_its_root_mean_square(draw):
    x, gain, route, eps = arguments(Work("rms_norm"), draw.case, torch.float64, "cpu")
    owner = expert_of(route)
    expected = torch.stack([normed(x[row], gain[owner[row]], eps) for row in range(len(x))])
    torch.testing.assert_close(OPS.rms_norm(x, gain, route, eps), expected)


def test_add_rms_norm_is_the_rounded_sum_and_its_norm():
    x, other, gain, route, eps = arguments(Work("add_rms_norm"), CASES["text_at_ends"], torch.bfloat16, "cpu")
    total, y = OPS.add_rms_norm(x, other, gain, route, eps)
    torch.testing.assert_close((total, y), (x + other, OPS.rms_norm(x + other, gain, route, eps)), rtol=0, atol=0)


def test_head_rms_norm_is_rms_norm_of_each_head(draw):
    x, gain, route, eps = arguments(Work("head_rms_norm"), draw.case, torch.float64, "cpu")
    owner = expert_of(route)
    expected = torch.stack(
        [torch.stack([normed(head, gain[owner[row]], eps) for head in x[row]]) for row in range(len(x))]
    )
    torch.testing.assert_close(OPS.head_rms_norm(x, gain, route, eps), expected)


def test_rotary_turns_each_pair_by_its_angle(draw):
    x, table = arguments(Work("rotary"), draw.case, torch.float64, "cpu")
    expected = torch.stack(
        [torch.stack([turned(head, table.cos[row], table.sin[row]) for head in x[row]]) for row in range(len(x))]
    )
    torch.testing.assert_close(OPS.rotary(x, table), expected)


def test_rotary_keeps_the_length_of_a_head():
    x = torch.randn(5, 2, 8, dtype=torch.float64)
    table = Rotary.at(torch.arange(5), 8, 1e4)
    torch.testing.assert_close(OPS.rotary(x, table).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)


def test_qk_norm_rotary_is_norm_then_rotary_of_each_head(draw):
    qkv, norm, table, route = arguments(Work("qk_norm_rotary"), draw.case, torch.float64, "cpu")
    owner, d = expert_of(route), norm.head_dim
    q, k, _ = OPS.qk_norm_rotary(qkv, norm, table, route)
    for row in range(len(qkv)):
        heads = qkv[row].reshape(-1, d)
        for found, gain, first in ((q[row], norm.q_gain, 0), (k[row], norm.k_gain, norm.n_heads)):
            for i, head in enumerate(found):
                expected = turned(normed(heads[first + i], gain[owner[row]], EPS), table.cos[row], table.sin[row])
                torch.testing.assert_close(head, expected)


def test_qk_norm_rotary_returns_v_as_a_view():
    qkv, norm, table, route = arguments(Work("qk_norm_rotary"), CASES["text_at_ends"], torch.float32, "cpu")
    _, _, v = OPS.qk_norm_rotary(qkv, norm, table, route)
    assert v.untyped_storage().data_ptr() == qkv.untyped_storage().data_ptr()


def test_qk_norm_rotary_rounds_once():
    qkv, norm, table, route = arguments(Work("qk_norm_rotary"), CASES["text_at_ends"], torch.bfloat16, "cpu")
    wide_norm = QKNorm(norm.q_gain.float(), norm.k_gain.float(), norm.n_heads, norm.n_kv_heads, norm.eps)
    q, _, _ = OPS.qk_norm_rotary(qkv, norm, table, route)
    q_wide, _, _ = OPS.qk_norm_rotary(qkv.float(), wide_norm, table, route)
    assert torch.equal(q, q_wide.bfloat16())


def test_gated_linear_is_silu_of_gate_times_up(draw):
    x, gate_up, route = arguments(Work("gated_linear"), draw.case, torch.float64, "cpu")
    gate, up = layer(x, gate_up, route).chunk(2, dim=-1)
    torch.testing.assert_close(OPS.gated_linear(x, gate_up, route), gate / (1 + torch.exp(-gate)) * up)


def test_gated_mlp_is_down_of_gated_linear(draw):
    x, gate_up, down, route = arguments(Work("gated_mlp"), draw.case, torch.float64, "cpu")
    inner = OPS.gated_linear(x, gate_up, route)
    torch.testing.assert_close(OPS.gated_mlp(x, gate_up, down, route), layer(inner, down, route))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_attention_is_a_softmax_average_of_the_values(causal):
    m, t, n_heads, n_kv_heads, d = 5, 9, 4, 2, 8
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(m, n_heads, d, dtype=torch.float64, generator=generator)
    k = torch.randn(t, n_kv_heads, d, dtype=torch.float64, generator=generator)
    v = torch.randn(t, n_kv_heads, d, dtype=torch.float64, generator=generator)
    out = OPS.attention(q, k, v, causal)
    for i in range(m):
        seen = t - m + i + 1 if causal else t
        for h in range(n_heads):
            g = h // (n_heads // n_kv_heads)
            weights = torch.softmax(k[:seen, g] @ q[i, h] / math.sqrt(d), dim=0)
            torch.testing.assert_close(out[i, h], weights @ v[:seen, g])


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_no_rows_give_an_empty_result(work):
    result = getattr(OPS, work.op)(*arguments(work, CASES["no_rows"], torch.float32, "cpu"))
    results = result if isinstance(result, tuple) else (result,)
    assert all(tensor.shape[0] == 0 for tensor in results)


def test_equal_experts_are_one_dense_layer():
    x, experts, route = arguments(Work("linear", "qkv"), CASES["equal_experts"], torch.float64, "cpu")
    dense = torch.nn.functional.linear(x, experts.weight[0], experts.bias[0])
    torch.testing.assert_close(OPS.linear(x, experts, route), dense)
