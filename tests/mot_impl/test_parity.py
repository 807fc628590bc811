"""The fused ops against the reference on every case; outputs poisoned before each run."""

import pytest
import torch
import torch.nn.functional as F

import mot_impl
from benchmarks.harness.gate import work_parity
from benchmarks.harness.inputs import CASES, WORK, Work, arguments
from reference_impl.tolerance import judge

pytestmark = pytest.mark.usefixtures("poisoned")

DTYPES = [torch.float32, torch.float16]
"""What the interpreter and a GPU both compute; test_gpu.py adds bfloat16."""

MATRIX_WORK = [work for work in WORK if work.op in ("linear", "gated_linear", "gated_mlp")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_an_op_agrees_with_the_reference(work, case, dtype, device):
    found = work_parity(mot_impl.OPS, work, case, dtype, device)
    assert found.ok, found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["odd_widths", "text_17_image_129"])
@pytest.mark.parametrize("work", MATRIX_WORK, ids=lambda work: work.name)
def test_small_tiles_agree_with_the_reference(work, name, dtype, device, small_tiles):
    ops = mot_impl.fused_ops(small_tiles)
    found = work_parity(ops, work, CASES[name], dtype, device)
    assert (found.ok, "user" in found.tile) == (True, True), found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_experts_are_one_dense_layer(dtype, device):
    x, experts, route = arguments(Work("linear", "qkv"), CASES["equal_experts"], dtype, device)
    weight, bias = experts.weight[0], experts.bias[0]
    exact = F.linear(x.double(), weight.double(), bias.double())
    dense = F.linear(x, weight, bias)
    assert judge(mot_impl.OPS.linear(x, experts, route), dense, exact, terms=x.shape[1]).ok


@pytest.mark.parametrize("rows", [7, 16], ids=["with_context", "no_context"])
def test_causal_attention_is_aligned_to_the_bottom_right(rows, device):
    """The last query sees every key, and a later key changes nothing for an earlier query."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(rows, 4, 32, generator=generator).to(device)
    k, v = (torch.randn(16, 2, 32, generator=generator).to(device) for _ in range(2))
    full = mot_impl.OPS.attention(q[-1:], k, v, False)
    torch.testing.assert_close(mot_impl.OPS.attention(q, k, v, True)[-1:], full, rtol=1e-5, atol=1e-6)
