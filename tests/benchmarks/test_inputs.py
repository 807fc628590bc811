"""Op cases: what they promise about rows, seeds and memory."""

import dataclasses

import pytest
import torch

from benchmarks.harness.inputs import (
    CASES,
    WORK,
    Draw,
    Work,
    arguments,
    bagel_case,
    copied,
    problem,
    size_in_bytes,
    tensors_of,
)
from benchmarks.harness.shapes import BAGEL, SHAPES, SMALL


def draw(name: str, dtype: torch.dtype = torch.float32) -> Draw:
    return Draw(CASES[name], dtype, torch.device("cpu"))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_route_has_the_rows_that_its_shape_says(case):
    route = Draw(case, torch.float32, torch.device("cpu")).route()
    assert (sorted(route.rows.tolist()), route.n_text) == (list(range(case.shape.m)), case.shape.n_text)


def test_text_at_the_ends_is_the_first_and_the_last_row():
    assert draw("text_at_ends").route().text_rows.tolist() == [0, 149]


def test_text_in_the_middle_is_one_run_of_rows():
    assert draw("text_in_middle").route().text_rows.tolist() == list(range(50, 66))


def test_shuffled_rows_are_in_no_order():
    rows = draw("rows_shuffled").route().image_rows.tolist()
    assert rows != sorted(rows)


def test_a_seed_means_the_same_numbers_in_every_dtype():
    assert torch.equal(draw("text_1", torch.float16).x(64), draw("text_1").x(64).half())


def test_another_seed_means_other_numbers():
    other = dataclasses.replace(CASES["text_1"], seed=1)
    assert not torch.equal(Draw(other, torch.float32, torch.device("cpu")).x(64), draw("text_1").x(64))


def test_numbers_do_not_depend_on_what_was_drawn_before():
    first = draw("text_1").experts("o").weight.clone()
    draw("text_1").experts("qkv")
    assert torch.equal(draw("text_1").experts("o").weight, first)


def test_padding_puts_nan_behind_every_row():
    x = draw("nan_around_x").x(256)
    behind = x.as_strided((66, 1), x.stride(), x.storage_offset() + 256)
    assert x.isfinite().all()
    assert behind.isnan().all()


def test_a_text_bias_leaves_the_image_expert_zeros():
    bias = draw("text_bias_only").experts("o").bias
    assert bias[0].any()
    assert not bias[1].any()


def test_bagel_has_a_bias_on_qkv_only():
    drawn = Draw(bagel_case(SMALL), torch.float32, torch.device("cpu"))
    assert drawn.experts("qkv").bias is not None
    assert drawn.experts("o").bias is None


def test_the_named_shapes_are_bagels():
    rows = {name: (shape.m, shape.n_text) for name, shape in SHAPES.items() if shape.hidden == 3584}
    assert rows == {"1026": (1026, 2), "4098": (4098, 2), "8208": (8208, 16)}


def test_the_layers_of_bagel_have_its_widths():
    sizes = {name: BAGEL.layer(name) for name in ("qkv", "o", "gate_up", "down")}
    assert sizes == {"qkv": (4608, 3584), "o": (3584, 3584), "gate_up": (37888, 3584), "down": (3584, 18944)}


def test_an_unknown_layer_is_refused():
    with pytest.raises(ValueError, match=r"layer 'mlp' is not one of qkv, o, gate_up, down"):
        SMALL.layer("mlp")


def test_an_unknown_op_is_refused():
    with pytest.raises(ValueError, match=r"op 'conv' is not one of"):
        arguments(Work("conv"), CASES["text_1"], torch.float32, "cpu")


def test_a_copy_has_the_same_numbers_in_other_memory():
    args = arguments(Work("linear", "qkv"), CASES["text_1"], torch.float32, "cpu")
    pairs = list(zip(tensors_of(args), tensors_of(copied(args)), strict=True))
    assert all(torch.equal(one, two) and one.data_ptr() != two.data_ptr() for one, two in pairs)


def test_size_counts_every_tensor():
    args = arguments(Work("linear", "o"), CASES["one_text_row"], torch.float32, "cpu")
    assert size_in_bytes(args) == 4 * (256 + 2 * 256 * 256 + 2 * 256) + 8


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_every_piece_of_work_has_a_problem(work):
    found = problem(work, SMALL, torch.float32, "cpu")
    assert (found.op, found.m) == (work.op, 66)
