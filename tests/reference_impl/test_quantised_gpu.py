"""The reference's quantised arithmetic on a GPU: the codes of a CPU to the bit, and its sums."""

import pytest
import torch

import reference_impl
from reference_impl.contract import Experts, Route, upcast
from reference_impl.parallel import Parallel, cut_inputs, cut_outputs
from reference_impl.quantise import quantise, quantise_rows
from reference_impl.tolerance import judge, truth

pytestmark = pytest.mark.gpu
OPS = reference_impl.OPS
ROUTE = Route.image_then_text(90, 7)
kinds = pytest.mark.parametrize("kind", ["fp8", "int8"])
dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def x(dtype: torch.dtype) -> torch.Tensor:
    """With a row of zeros, an outlier channel, and a row whose numbers float16 has no normal ones for."""
    x = draw(97, 256)
    x[:, 9] *= 300
    x[4], x[5] = 0, x[5] * 1e-7
    return x.to(dtype)


@dtypes
@pytest.mark.parametrize("fixed", [None, torch.tensor([0.01, 0.3])], ids=["own scales", "fixed scales"])
def test_rows_have_the_codes_of_a_cpu(x, fixed):
    on_cpu = quantise_rows(x, ROUTE, fixed)
    on_gpu = quantise_rows(x.cuda(), ROUTE.to("cuda"), None if fixed is None else fixed.cuda())
    assert torch.equal(on_gpu.values.cpu().float(), on_cpu.values.float())
    assert torch.equal(on_gpu.scale.cpu(), on_cpu.scale)


@dtypes
@kinds
def test_weights_have_the_codes_of_a_cpu(kind, dtype):
    weight = draw(2, 60, 256, seed=1).to(dtype)
    on_cpu, on_gpu = quantise(Experts(weight), kind), quantise(Experts(weight.cuda()), kind)
    assert torch.equal(on_gpu.weight.cpu().float(), on_cpu.weight.float())
    assert torch.equal(on_gpu.scale.cpu(), on_cpu.scale)


@dtypes
@kinds
def test_linear_is_close_to_the_truth_about_what_is_stored(kind, dtype, x):
    layer = quantise(Experts(draw(2, 60, 256, seed=1).to(dtype).cuda(), draw(2, 60).to(dtype).cuda()), kind)
    route = ROUTE.to("cuda")
    rows = quantise_rows(x.cuda(), route) if kind == "fp8" else x.cuda()
    exact = truth(OPS.linear, rows, layer, route, dtype=dtype)
    assert judge(OPS.linear(rows, layer, route), exact.to(dtype), exact, terms=256).ok


@kinds
def test_weights_are_cut(kind):
    layer = quantise(Experts(draw(2, 64, 256, seed=1).cuda()), kind)
    whole = upcast(layer, torch.float32).weight
    inputs = [upcast(cut_inputs(layer, Parallel(rank, 2)), torch.float32).weight for rank in range(2)]
    outputs = [upcast(cut_outputs(layer, (64,), Parallel(rank, 2)), torch.float32).weight for rank in range(2)]
    assert torch.equal(torch.cat(inputs, 2), whole)
    assert torch.equal(torch.cat(outputs, 1), whole)
