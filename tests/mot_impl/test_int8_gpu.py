"""Layers of int8 weights on a GPU: the Hopper kernel on sorted rows, the other one on any rows and with K in pieces."""

import dataclasses

import pytest
import torch

import mot_impl
from benchmarks.harness.gate import compare
from benchmarks.harness.inputs import Case, Work, arguments, quantised
from benchmarks.harness.shapes import BAGEL, ODD, SMALL, Shape
from mot_impl import hopper_int8_launch, int8
from mot_impl.heuristic import HOPPER_TILES, INT8_FEW_ROWS
from mot_impl.tiles import Tile
from reference_impl.contract import Experts, Route

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="no Hopper GPU"
)

OPS = mot_impl.OPS
DEVICE = "cuda"
HALVES = (torch.bfloat16, torch.float16)
WORK = [*(Work("linear", layer) for layer in ("qkv", "o", "gate_up", "down")), Work("gated_linear")]
EVEN = Shape(300, 2, 256, 4, 2, 64, 1152)
"""Widths that TMA can address: multiples of 16, but not of a tile."""


def sorted_case(name: str, m: int, n_text: int, widths: Shape = EVEN, **traits) -> Case:
    return Case(name, widths.rows(m, n_text), order="image_first", **traits)


CASES = [
    sorted_case("text_2", 300, 2),
    sorted_case("all_image", 300, 0),
    sorted_case("all_text", 300, 300),
    sorted_case("text_16_image_multiple_of_256", 528, 16),
    sorted_case("text_17", 401, 17),
    sorted_case("image_16", 300, 284),
    sorted_case("half_and_half", 1200, 600),
    sorted_case("equal_experts", 300, 2, equal=True),
    sorted_case("no_bias", 300, 2, bias="none"),
    sorted_case("outliers", 300, 2, outliers=True),
    sorted_case("bagel_128", 128, 2, BAGEL, bias="qkv"),
    sorted_case("bagel_1026", 1026, 2, BAGEL, bias="qkv"),
    sorted_case("bagel_4098", 4098, 2, BAGEL, bias="qkv"),
    sorted_case("bagel_8208", 8208, 16, BAGEL, bias="qkv"),
]
FEW = [
    sorted_case("few_text_1", 1, 1),
    sorted_case("few_text_2_of_60", 60, 2),
    sorted_case("few_text_130", 130, 130),
    sorted_case("few_bagel_1", 1, 1, BAGEL, bias="qkv"),
    sorted_case("few_bagel_64", 64, 64, BAGEL, bias="qkv"),
    sorted_case("few_bagel_64_with_2_of_text", 64, 2, BAGEL, bias="qkv"),
]


def made(work: Work, case: Case, dtype: torch.dtype = torch.bfloat16):
    return quantised(arguments(work, case, dtype, DEVICE), "int8")


def on_hopper(work: Work, tile: Tile = HOPPER_TILES["int8"]):
    """OPS with the Hopper kernel whatever the table says."""
    plan = lambda x, experts, route: hopper_int8_launch.routed(x, experts, route, tile, work.op == "gated_linear")  # noqa: E731
    return dataclasses.replace(OPS, **{work.op: plan})


def by_index(work: Work, tile: Tile):
    """OPS with the other kernel and a tile."""
    plan = lambda x, experts, route: int8.routed(x, experts, route, tile, work.op == "gated_linear")  # noqa: E731
    return dataclasses.replace(OPS, **{work.op: plan})


@hopper
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_hopper_kernel_agrees_with_the_reference(case, work):
    found = compare(on_hopper(work), work.op, made(work, case))
    assert found.ok, found


@hopper
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
@pytest.mark.parametrize("tile", INT8_FEW_ROWS, ids=str)
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_the_hopper_kernel_agrees_in_tiles_for_few_rows(case, tile, work):
    found = compare(on_hopper(work, tile), work.op, made(work, case))
    assert found.ok, found


@hopper
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_the_hopper_kernel_agrees_in_float16(work):
    found = compare(
        on_hopper(work), work.op, made(work, sorted_case("bagel", 1026, 2, BAGEL, bias="qkv"), torch.float16)
    )
    assert found.ok, found


@hopper
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_hopper_kernel_converts_every_code(dtype):
    """Rows of x that pick one column each: the result is the codes, -128 among them."""
    codes = torch.arange(256, device=DEVICE).sub(128).to(torch.int8)
    weight = codes.repeat(2, 128, 1)
    weight[:, 1::2] = weight[:, 1::2].flip(-1)
    experts = Experts(weight, scale=torch.ones(2, 128, device=DEVICE))
    x = torch.eye(256, dtype=dtype, device=DEVICE)
    y = hopper_int8_launch.routed(x, experts, Route.image_then_text(256, 0, DEVICE), HOPPER_TILES["int8"], False)
    assert torch.equal(y, weight[1].T.to(dtype))


@hopper
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
@pytest.mark.parametrize(("m", "n_text"), [(128, 2), (1026, 2), (4098, 2)])
def test_runs_of_the_hopper_kernel_give_the_same_bits(work, m, n_text):
    args = made(work, sorted_case("bagel", m, n_text, BAGEL))
    op = getattr(on_hopper(work), work.op)
    first, *others = (op(*args) for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


@hopper
@pytest.mark.parametrize("work", [Work("linear", "o"), Work("gated_linear")], ids=lambda work: work.name)
def test_a_row_is_not_touched_by_nan_in_other_rows(work):
    x, experts, route = made(work, sorted_case("small", 300, 2))
    op = getattr(on_hopper(work), work.op)
    clean = op(x, experts, route)
    dirty = x.clone()
    dirty[::3] = float("nan")
    kept = torch.arange(300, device=DEVICE) % 3 != 0
    assert torch.equal(op(dirty, experts, route)[kept], clean[kept])


@hopper
def test_rows_that_tma_cannot_address_are_refused():
    x, experts, route = made(Work("linear", "o"), sorted_case("odd", 300, 2, ODD))
    with pytest.raises(ValueError, match="multiples of 16"):
        hopper_int8_launch.routed(x, experts, route, HOPPER_TILES["int8"], False)


TILES = [
    Tile(16, 32, 128, 2, 5),
    Tile(16, 32, 128, 2, 5, pieces=4),
    Tile(64, 64, 128, 4, 4, pieces=2),
    Tile(128, 128, 64, 8, 3),
]
ROWS = [
    Case("text_1", SMALL.rows(1, 1)),
    Case("text_2_of_17", SMALL.rows(17, 2)),
    Case("shuffled", SMALL.rows(66, 33), order="shuffled"),
    Case("odd_widths", ODD.rows(66, 3)),
    Case("bagel_1", BAGEL.rows(1, 1), bias="qkv"),
    Case("bagel_64", BAGEL.rows(64, 2), bias="qkv"),
]


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_the_kernel_by_index_agrees_with_the_reference(case, work, tile):
    found = compare(by_index(work, tile), work.op, made(work, case))
    assert found.ok, found


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_pieces_give_the_same_bits_in_every_run(work):
    args = made(work, Case("bagel", BAGEL.rows(64, 2)))
    op = getattr(by_index(work, Tile(16, 32, 128, 2, 5, pieces=4)), work.op)
    first, *others = (op(*args) for _ in range(10))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("m", [1, 64, 1026])
def test_a_captured_graph_gives_the_same_bits(m):
    args = made(Work("linear", "qkv"), sorted_case("bagel", m, 1, BAGEL))
    expected = OPS.linear(*args).clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = OPS.linear(*args)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize("work", [*WORK, Work("gated_mlp")], ids=lambda work: work.name)
def test_the_ops_agree_with_the_reference(work, dtype):
    found = compare(OPS, work.op, made(work, Case("shuffled", SMALL.rows(150, 16), order="shuffled"), dtype))
    assert found.ok, found
