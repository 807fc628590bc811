"""The Hopper kernel on a GPU of compute capability 9.0: sorted rows of any number, and what it refuses."""

import dataclasses

import pytest
import torch

import mot_impl
from benchmarks.harness.gate import compare, work_parity
from benchmarks.harness.inputs import Case, Work, arguments
from benchmarks.harness.shapes import BAGEL, ODD, SMALL, Shape
from reference_impl.contract import Experts, Route

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="no Hopper GPU"
    ),
]

OPS = mot_impl.OPS
DEVICE = "cuda"
WORK = [*(Work("linear", layer) for layer in ("qkv", "o", "gate_up", "down")), Work("gated_linear")]


def sorted_case(name: str, m: int, n_text: int, widths=SMALL, **traits) -> Case:
    return Case(name, widths.rows(m, n_text), order="image_first", **traits)


CASES = [
    sorted_case("text_2", 300, 2),
    sorted_case("all_image", 300, 0),
    sorted_case("all_text", 300, 300),
    sorted_case("text_16_image_multiple_of_128", 400, 16),
    sorted_case("text_17", 401, 17),
    sorted_case("image_16", 300, 284),
    sorted_case("half_and_half", 600, 300),
    sorted_case("equal_experts", 300, 2, equal=True),
    sorted_case("no_bias", 300, 2, bias="none"),
    sorted_case("outliers", 300, 2, outliers=True),
    sorted_case("odd_widths", 331, 3, ODD),
    sorted_case("blocks_that_once_waited_for_ever", 722, 15, Shape(722, 15, 2432, 19, 19, 128, 5760)),
    sorted_case("bagel_128", 128, 2, BAGEL, bias="qkv"),
    sorted_case("bagel_128_text", 128, 128, BAGEL, bias="qkv"),
    sorted_case("bagel_1026", 1026, 2, BAGEL, bias="qkv"),
    sorted_case("bagel_4098", 4098, 2, BAGEL, bias="qkv"),
    sorted_case("bagel_8208", 8208, 16, BAGEL, bias="qkv"),
]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_agrees_with_the_reference(case, work):
    found = work_parity(OPS, work, case, torch.bfloat16, DEVICE)
    assert (found.ok, found.tile) == (True, "hopper 128x256x64 w8 s4 (heuristic)"), found


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_it_agrees_in_float16(work):
    assert work_parity(OPS, work, sorted_case("bagel", 1026, 2, BAGEL, bias="qkv"), torch.float16, DEVICE).ok


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
@pytest.mark.parametrize(("m", "n_text"), [(128, 2), (1026, 2), (4098, 2)])
def test_runs_give_the_same_bits(work, m, n_text):
    """Where a tile is shared by several blocks, too."""
    args = arguments(work, sorted_case("bagel", m, n_text, BAGEL), torch.bfloat16, DEVICE)
    first, *others = (getattr(OPS, work.op)(*args) for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


def test_a_row_is_not_touched_by_nan_in_other_rows():
    x, experts, route = arguments(Work("linear", "o"), sorted_case("small", 300, 2), torch.bfloat16, DEVICE)
    clean = OPS.linear(x, experts, route)
    dirty = x.clone()
    dirty[::3] = float("nan")
    kept = torch.arange(300, device=DEVICE) % 3 != 0
    assert torch.equal(OPS.linear(dirty, experts, route)[kept], clean[kept])


def test_rows_may_lie_apart():
    """x is a view of a wider buffer of NaN, its rows still multiples of 16 bytes."""
    x, experts, route = arguments(Work("linear", "o"), sorted_case("small", 300, 2), torch.bfloat16, DEVICE)
    buffer = torch.full((302, x.shape[1] + 16), float("nan"), dtype=x.dtype, device=DEVICE)
    apart = buffer[1:301, 8:-8]
    apart.copy_(x)
    assert torch.equal(OPS.linear(apart, experts, route), OPS.linear(x, experts, route))


@pytest.mark.parametrize("warm", [True, False], ids=["on_a_warm_stream", "on_a_fresh_stream"])
def test_a_captured_graph_gives_the_same_bits(warm):
    args = arguments(Work("linear", "qkv"), sorted_case("bagel", 1026, 2, BAGEL), torch.bfloat16, DEVICE)
    expected = OPS.linear(*args).clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        if warm:
            OPS.linear(*args)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = OPS.linear(*args)
        for _ in range(3):
            graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)


@pytest.mark.parametrize("shift", [1, 8])
def test_memory_that_tma_cannot_address_is_refused(shift):
    x, experts, route = arguments(Work("linear", "o"), sorted_case("small", 300, 2), torch.bfloat16, DEVICE)
    buffer = torch.zeros(300, x.shape[1] + 9, dtype=x.dtype, device=DEVICE)
    with pytest.raises(ValueError, match="multiples of 16"):
        OPS.linear(buffer[:, shift : shift + x.shape[1]], experts, route)


def test_an_unsorted_route_takes_the_kernel_that_reads_by_index():
    case = dataclasses.replace(sorted_case("small", 300, 2), order="shuffled")
    found = work_parity(OPS, Work("linear", "o"), case, torch.bfloat16, DEVICE)
    assert (found.ok, "hopper" in found.tile) == (True, False)


def test_weights_beyond_32_bits_are_read():
    """[2, 9000, 131072] has 2.4e9 values: the image expert's last rows lie behind 2^31."""
    n, k = 9000, 131_072
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(256, k, generator=generator, device=DEVICE, dtype=torch.bfloat16)
    weight = torch.randn(2, n, k, generator=generator, device=DEVICE, dtype=torch.bfloat16) * k**-0.5
    found = compare(OPS, "linear", (x, Experts(weight), Route.image_then_text(256, 0, DEVICE)))
    assert found.ok, found
