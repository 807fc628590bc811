"""Route: what it holds, and what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.contract import Route

masks = st.lists(st.booleans(), max_size=40)


def rows(*values: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def test_the_example_of_the_docstring_holds():
    route = Route.from_mask(torch.tensor([False, False, True, True, False]))
    assert (route.rows.tolist(), route.n_text) == ([0, 1, 4, 2, 3], 3)


@given(masks)
def test_rows_of_a_mask_are_a_permutation(mask):
    route = Route.from_mask(torch.tensor(mask, dtype=torch.bool))
    assert sorted(route.rows.tolist()) == list(range(len(mask)))


@given(masks)
def test_a_mask_sends_each_row_to_its_expert(mask):
    route = Route.from_mask(torch.tensor(mask, dtype=torch.bool))
    assert [mask[row] for row in route.image_rows.tolist()] == [True] * route.n_image
    assert [mask[row] for row in route.text_rows.tolist()] == [False] * route.n_text


@given(masks)
def test_rows_of_a_mask_keep_their_order(mask):
    route = Route.from_mask(torch.tensor(mask, dtype=torch.bool))
    assert all(part.tolist() == sorted(part.tolist()) for part in route.expert_rows)


@given(masks.flatmap(lambda mask: st.tuples(st.permutations(range(len(mask))), st.integers(0, len(mask)))))
def test_index_lists_in_any_order_are_kept_as_they_are(drawn):
    order, n_text = drawn
    route = Route.from_rows(rows(*order[:n_text]), rows(*order[n_text:]))
    assert (route.rows.tolist(), route.n_text) == (list(order), n_text)


def test_index_lists_in_int32_become_int64():
    route = Route.from_rows(rows(1, dtype=torch.int32), rows(0, dtype=torch.int32))
    assert route.rows.dtype == torch.int64


def test_all_text_has_no_image_rows():
    route = Route.all_text(3)
    assert (route.n_rows, route.n_text, route.n_image) == (3, 3, 0)


def test_no_rows_at_all_is_a_route():
    assert Route.from_rows(rows(), rows()).n_rows == 0


@pytest.mark.parametrize(
    ("text", "image", "message"),
    [
        pytest.param(
            (0, 1), (1, 2), r"rows \[1\] are named more than once; .* name each in one list, once", id="overlap"
        ),
        pytest.param((0, 0), (1,), r"rows \[0\] are named more than once", id="twice-in-one-list"),
        pytest.param((0,), (2,), "row 2 is out of range or leaves a gap: 2 rows must name 0..1", id="gap"),
        pytest.param((0, 1), (9,), "row 9 is out of range", id="out-of-range"),
        pytest.param((0,), (10**15,), "row 1000000000000000 is out of range", id="far-out-of-range"),
        pytest.param((-1,), (0,), "row -1 is negative; rows must lie in 0..1", id="negative"),
    ],
)
def test_index_lists_that_do_not_name_each_row_once_are_refused(text, image, message):
    with pytest.raises(ValueError, match=message):
        Route.from_rows(rows(*text), rows(*image))


def test_float_rows_are_refused():
    with pytest.raises(TypeError, match=r"text rows are torch.float32 but must be int64 or int32"):
        Route.from_rows(torch.zeros(1), rows())


def test_int32_rows_are_refused_without_a_conversion():
    with pytest.raises(TypeError, match=r"torch.int32 but must be torch.int64; convert with .long\(\)"):
        Route(rows(0, dtype=torch.int32), 1)


def test_a_matrix_of_rows_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\) but must be one-dimensional"):
        Route(rows(0, 1)[None], 1)


def test_more_text_rows_than_rows_are_refused():
    with pytest.raises(ValueError, match=r"n_text=3 but 2 rows"):
        Route(rows(0, 1), 3)


def test_a_mask_of_integers_is_refused():
    with pytest.raises(TypeError, match=r"mask is torch.int64 but must be torch.bool"):
        Route.from_mask(rows(0, 1))


def test_image_then_text_names_the_text_rows_first():
    route = Route.image_then_text(3, 2)
    assert (route.rows.tolist(), route.n_text, route.image_first) == ([3, 4, 0, 1, 2], 2, True)


@given(masks)
def test_a_mask_knows_whether_image_rows_come_first(mask):
    route = Route.from_mask(torch.tensor(mask, dtype=torch.bool))
    assert route.image_first == (mask == sorted(mask, reverse=True))


def test_index_lists_promise_no_order():
    assert not Route.from_rows(rows(2), rows(0, 1)).image_first


def test_all_text_counts_as_image_first():
    assert Route.all_text(3).image_first


def test_a_moved_route_keeps_its_order():
    assert Route.image_then_text(1, 1).to("cpu").image_first
