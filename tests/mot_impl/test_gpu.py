"""On a GPU: every case in every dtype, BAGEL's own sizes, graphs, and offsets beyond 32 bits in what is written."""

import pytest
import torch

import mot_impl
from benchmarks.harness.gate import work_parity
from benchmarks.harness.inputs import BAGEL_CASES, CASES, WORK, arguments
from reference_impl.contract import Experts, Route

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned")]

OPS = mot_impl.OPS
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
DEVICE = "cuda"


def results(work, args) -> tuple[torch.Tensor, ...]:
    found = getattr(OPS, work.op)(*args)
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_an_op_agrees_on_a_small_case(work, case, dtype):
    found = work_parity(OPS, work, case, dtype, DEVICE)
    assert found.ok, found


@pytest.mark.parametrize("case", BAGEL_CASES.values(), ids=BAGEL_CASES.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_an_op_agrees_at_bagels_sizes(work, dtype, case, record_property):
    found = work_parity(OPS, work, case, dtype, DEVICE)
    record_property("worst_of_limit", round(found.worst / found.limit_worst, 3))
    record_property("rms_of_limit", round(found.rms / found.limit_rms, 3))
    assert found.ok, found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_two_runs_give_the_same_bits(work, dtype):
    args = arguments(work, BAGEL_CASES["bagel_1026_bias_both"], dtype, DEVICE)
    assert all(torch.equal(one, two) for one, two in zip(results(work, args), results(work, args), strict=True))


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_an_op_can_be_captured_in_a_graph(work):
    """So nothing in it waits for the device or reads from it."""
    args = arguments(work, CASES["rows_shuffled"], torch.bfloat16, DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = [tensor.clone() for tensor in results(work, args)]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = results(work, args)
        graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(one, two) for one, two in zip(captured, expected, strict=True))


def test_an_output_beyond_32_bits_is_written():
    """[131100, 16400] has 2.15e9 values: its last rows lie behind 2^31."""
    m, n, k = 131_100, 16_400, 16
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(m, k, generator=generator, device=DEVICE, dtype=torch.bfloat16)
    weight = torch.randn(2, n, k, generator=generator, device=DEVICE, dtype=torch.bfloat16)
    y = OPS.linear(x, Experts(weight), Route(torch.arange(m, device=DEVICE), 17))
    exact = x[-3:].float() @ weight[1].float().T
    torch.testing.assert_close(y[-3:].float(), exact, rtol=2**-7, atol=1e-3)
