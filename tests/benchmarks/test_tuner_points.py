"""Which layers and sizes tiles are chosen for."""

from pathlib import Path

import pytest

from bagel.config import BagelConfig
from benchmarks.harness.shapes import BAGEL, LAYERS
from benchmarks.harness.tuner_points import ROWS, Point, points, widths

CHECKPOINT = Path(__file__).parents[1] / "data/bagel_oracle/checkpoint"


def sizes(ranks: int, layer: str) -> list[tuple[int, int]]:
    return [(point.n, point.k) for point in points(BAGEL, [layer], ["1026"], ranks)]


@pytest.mark.parametrize(
    ("layer", "size"),
    [("qkv", (4608, 3584)), ("o", (3584, 3584)), ("gate_up", (18944, 3584)), ("down", (3584, 18944))],
)
def test_a_whole_layer_has_bagels_widths(layer, size):
    assert sizes(1, layer) == [size]


@pytest.mark.parametrize(
    ("layer", "size"),
    [("qkv", (2304, 3584)), ("o", (3584, 1792)), ("gate_up", (9472, 3584)), ("down", (3584, 9472))],
)
def test_two_ranks_cut_a_layer_as_the_model_does(layer, size):
    assert sizes(2, layer) == [size]


def test_ranks_that_differ_are_each_a_point():
    """28 query and 4 key/value heads over 7 ranks: a rank serves one or two key/value heads."""
    assert sizes(7, "qkv") == [(6 * 128, 3584), (12 * 128, 3584), (8 * 128, 3584)]


def test_ranks_that_divide_nothing_are_refused():
    with pytest.raises(ValueError, match="do not divide among 3 ranks"):
        points(BAGEL, ["qkv"], ["1026"], 3)


def test_the_most_important_rows_come_first():
    first = points(BAGEL, LAYERS, ROWS)[:4]
    assert [point.name for point in first] == ["qkv 1026:2", "o 1026:2", "gate_up 1026:2", "down 1026:2"]


def test_two_rows_are_text_unless_said():
    assert points(BAGEL, ["o"], ["300", "1"])[0] == Point("o", 300, 2, 3584, 3584)


def test_a_single_row_is_text():
    assert points(BAGEL, ["o"], ["1"])[0].n_text == 1


@pytest.mark.parametrize("text", ["0", "4:5", "x", "-3", "3:", "1026:2:1", ""])
def test_rows_that_cannot_be_are_refused(text):
    with pytest.raises(ValueError, match="must be ROWS or ROWS:TEXT_ROWS"):
        points(BAGEL, ["o"], [text])


def test_an_unknown_layer_is_refused():
    with pytest.raises(ValueError, match="layer k is unknown; use one of qkv, o, gate_up, down"):
        points(BAGEL, ["o", "k"], ["1026"])


def test_a_checkpoints_widths_are_its_own():
    language = BagelConfig.read(CHECKPOINT).language
    shape = widths(str(CHECKPOINT))
    assert (shape.hidden, shape.intermediate) == (language.hidden, language.intermediate)


def test_gate_up_is_the_gated_op_with_the_intermediate_width():
    point = points(BAGEL, ["gate_up"], ["1026"])[0]
    assert (point.op, point.accumulators, point.bias) == ("gated_linear", 2, False)
