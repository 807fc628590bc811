"""fp8 experts on a GPU of compute capability 9.0: sorted rows in blocks, others by index, in both accumulations."""

import pytest
import torch

import mot_impl
from benchmarks.harness import scaled_products
from benchmarks.harness.gate import compare
from benchmarks.harness.inputs import Case, Work, arguments, problem, quantised
from benchmarks.harness.shapes import BAGEL, ODD, SMALL
from mot_impl.tiles import TileTable
from reference_impl.contract import QuantisedRows
from tests.mot_impl.test_hopper import CASES as SORTED
from tests.mot_impl.test_hopper import WORK, sorted_case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="no Hopper GPU"
    ),
]

DEVICE = torch.device("cuda", 0)
OPS = {sums: mot_impl.fused_ops(TileTable(), sums) for sums in ("fast", "exact")}
HOPPER = "hopper 128x256x128 w8 s4 (heuristic)"


# In 8 bits the odd widths are no multiple of 16 bytes, which TMA needs.
CASES = [case for case in SORTED if case.name != "odd_widths"]
BY_INDEX = [
    Case("no_rows", SMALL.rows(0, 0)),
    Case("one_row", SMALL.rows(1, 1)),
    Case("two_rows", SMALL.rows(2, 1)),
    Case("17_rows", SMALL.rows(17, 3), order="shuffled"),
    Case("shuffled", SMALL.rows(150, 17), order="shuffled"),
    Case("all_image", SMALL.rows(150, 0)),
    Case("odd_widths", ODD.rows(67, 3), order="shuffled"),
    Case("outliers", SMALL.rows(66, 17), outliers=True),
    Case("bagel_16", BAGEL.rows(16, 16), bias="qkv"),
    Case("bagel_64", BAGEL.rows(64, 2), order="shuffled", bias="qkv"),
    Case("bagel_512", BAGEL.rows(512, 2), order="shuffled", bias="qkv"),
    Case("bagel_1026", BAGEL.rows(1026, 2), order="shuffled", bias="qkv"),
]


def inputs(work: Work, case: Case, dtype: torch.dtype = torch.bfloat16):
    return quantised(arguments(work, case, dtype, DEVICE), "fp8")


def closeness(work: Work, case: Case, sums: str, dtype: torch.dtype = torch.bfloat16):
    """Fast sums are held to PyTorch's with fast sums, where it has them; the others to sums in float32."""
    args = inputs(work, case, dtype)
    return compare(OPS[sums], work.op, args, scaled_products.ordinary(work.op, args) if sums == "fast" else None)


@pytest.mark.parametrize("sums", ["fast", "exact"])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sorted_rows_agree_with_the_reference(case, work, sums, record_property):
    found = closeness(work, case, sums)
    record_property("worst_of_limit", round(found.worst / found.limit_worst, 3))
    record_property("rms_of_limit", round(found.rms / found.limit_rms, 3))
    tile = OPS[sums].describe_tile(problem(work, case.shape, torch.bfloat16, DEVICE, True, "fp8"))
    assert (found.ok, tile) == (True, f"{HOPPER}, {sums} sums"), found


@pytest.mark.parametrize("sums", ["fast", "exact"])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
@pytest.mark.parametrize("case", BY_INDEX, ids=lambda case: case.name)
def test_rows_by_index_agree_with_the_reference(case, work, sums):
    found = closeness(work, case, sums)
    assert found.ok, found


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_results_may_be_of_another_dtype(work, dtype):
    found = closeness(work, sorted_case("bagel", 1026, 2, BAGEL, bias="qkv"), "exact", dtype)
    assert found.ok, found


@pytest.mark.parametrize("sums", ["fast", "exact"])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
@pytest.mark.parametrize(("m", "n_text"), [(128, 2), (1026, 2), (4098, 2)])
def test_runs_give_the_same_bits(work, m, n_text, sums):
    args = inputs(work, sorted_case("bagel", m, n_text, BAGEL))
    first, *others = (getattr(OPS[sums], work.op)(*args) for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


def test_fast_and_exact_sums_differ_over_a_long_row():
    args = inputs(Work("linear", "down"), sorted_case("bagel", 300, 2, BAGEL))
    assert not torch.equal(OPS["fast"].linear(*args), OPS["exact"].linear(*args))


@pytest.mark.parametrize("sums", ["fast", "exact"])
@pytest.mark.parametrize("order", ["image_first", "shuffled"])
def test_a_row_is_not_touched_by_nan_in_other_rows(order, sums):
    x, experts, route = inputs(Work("linear", "o"), Case("small", SMALL.rows(300, 2), order=order))
    clean = OPS[sums].linear(x, experts, route)
    values, scale = x.values.clone(), x.scale.clone()
    values.view(torch.uint8)[::3] = 0x7F
    scale[1::3] = float("nan")
    dirty = OPS[sums].linear(QuantisedRows(values, scale, x.dtype), experts, route)
    row = torch.arange(300, device=DEVICE) % 3
    assert (torch.equal(dirty[row == 2], clean[row == 2]), bool(dirty[row != 2].isnan().all())) == (True, True)


def test_a_row_of_zeros_is_its_bias():
    x, experts, route = inputs(Work("linear", "qkv"), sorted_case("small", 300, 2))
    values = x.values.clone()
    values.view(torch.uint8)[5] = 0
    got = OPS["fast"].linear(QuantisedRows(values, x.scale, x.dtype), experts, route)
    assert torch.equal(got[5], experts.bias[1].to(got.dtype))


def test_memory_that_tma_cannot_address_is_refused():
    x, experts, route = inputs(Work("linear", "o"), sorted_case("small", 300, 2))
    buffer = torch.zeros(300, x.shape[1] + 9, dtype=torch.uint8, device=DEVICE).view(torch.float8_e4m3fn)
    apart = QuantisedRows(buffer[:, 1 : 1 + x.shape[1]], x.scale, x.dtype)
    with pytest.raises(ValueError, match="multiples of 16"):
        OPS["fast"].linear(apart, experts, route)


@pytest.mark.parametrize("warm", [True, False], ids=["on_a_warm_stream", "on_a_fresh_stream"])
def test_a_captured_graph_gives_the_same_bits(warm):
    args = inputs(Work("linear", "qkv"), sorted_case("bagel", 1026, 2, BAGEL))
    expected = OPS["fast"].linear(*args).clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        if warm:
            OPS["fast"].linear(*args)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = OPS["fast"].linear(*args)
        for _ in range(3):
            graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)
