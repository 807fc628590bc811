"""Places of a cache: what they hold, and what is refused."""

import pytest
import torch

from reference_impl.contract import KVSlice

PLACES = {"slice": slice(2, 4), "indices": torch.tensor([4, 1])}


def cache(rows: int = 6) -> torch.Tensor:
    return torch.zeros(rows, 1, 2)


@pytest.mark.parametrize("rows", PLACES.values(), ids=PLACES.keys())
def test_kept_rows_lie_where_they_should(rows):
    k, v = torch.full((2, 1, 2), 3.0), torch.full((2, 1, 2), 5.0)
    kept = KVSlice(cache(), cache(), rows)
    kept.keep(k, v)
    assert torch.equal(kept.k[rows], k)
    assert torch.equal(kept.v[rows], v)


@pytest.mark.parametrize("rows", PLACES.values(), ids=PLACES.keys())
def test_rows_are_counted(rows):
    assert KVSlice(cache(), cache(), rows).n_rows == 2


REFUSED = {
    "two_axes": (lambda: KVSlice(torch.zeros(2, 2), torch.zeros(2, 2), slice(0, 1)), r"\(2, 2\) but must be \[T, G, d"),
    "v_of_another_shape": (lambda: KVSlice(cache(), cache(5), slice(0, 1)), r"v is \(5, 1, 2\) but k \(6, 1, 2\)"),
    "v_of_another_dtype": (lambda: KVSlice(cache(), cache().half(), slice(0, 1)), "v is torch.float16 but k"),
    "beyond_the_end": (lambda: KVSlice(cache(), cache(), slice(3, 7)), "slice.3, 7, None. of a cache of 6"),
    "every_other_row": (lambda: KVSlice(cache(), cache(), slice(0, 4, 2)), "of step 1"),
    "int32_rows": (lambda: KVSlice(cache(), cache(), torch.tensor([1], dtype=torch.int32)), "int32 .* must be int64"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_place_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
