"""q/k norm and rotary that store keys and values in a cache: where they should lie, and nowhere else."""

import dataclasses

import pytest
import torch

import mot_impl
import reference_impl
from benchmarks.harness.gate import compare
from benchmarks.harness.inputs import BAGEL_CASES, CASES, Case, Work, arguments
from benchmarks.harness.storing import storing
from reference_impl.contract import KVSlice
from reference_impl.tolerance import Closeness

pytestmark = pytest.mark.usefixtures("poisoned")

CONTEXT, BEHIND = 5, 3
"""Rows of the cache in front of those that are stored, and behind them."""

DTYPES = [torch.float32, torch.float16]
NAMES = ["rows_shuffled", "odd_widths", "text_1", "all_text", "all_image", "image_then_text", "no_rows"]
PLACES = ["together", "scattered"]


def given(case: Case, dtype: torch.dtype, device: torch.device | str) -> tuple:
    return arguments(Work("qk_norm_rotary"), case, dtype, device)


def cache(case: Case, dtype: torch.dtype, device: torch.device | str, place: str) -> KVSlice:
    """One layer of a cache of two full of NaN, and the places of the case's rows in it."""
    shape, m = case.shape, case.shape.m
    size = (2, 2, CONTEXT + m + BEHIND, shape.n_kv_heads, shape.head_dim)
    layer = torch.full(size, torch.nan, dtype=dtype, device=device)[1]
    order = torch.randperm(m, generator=torch.Generator().manual_seed(3)) + CONTEXT
    return KVSlice(*layer, slice(CONTEXT, CONTEXT + m) if place == "together" else order.to(device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_stored_is_what_is_returned_without_a_cache(place, name, dtype, device):
    args, into = given(CASES[name], dtype, device), cache(CASES[name], dtype, device, place)
    expected = mot_impl.OPS.qk_norm_rotary(*args)
    q, k, v = mot_impl.OPS.qk_norm_rotary(*args, into)
    assert all(torch.equal(*pair) for pair in zip((q, k[into.rows], v[into.rows]), expected, strict=True))


@pytest.mark.parametrize("ops", [mot_impl.OPS, reference_impl.OPS], ids=lambda ops: ops.name)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_else_of_the_cache_is_written(place, ops, device):
    case = CASES["odd_widths"]
    into = cache(case, torch.float32, device, place)
    ops.qk_norm_rotary(*given(case, torch.float32, device), into)
    outside = torch.ones(len(into.k), dtype=torch.bool, device=device)
    outside[into.rows] = False
    assert torch.stack([into.k[outside], into.v[outside]]).isnan().all()


@pytest.mark.parametrize("ops", [mot_impl.OPS, reference_impl.OPS], ids=lambda ops: ops.name)
def test_the_results_are_the_cache_itself(ops, device):
    case = CASES["text_1"]
    into = cache(case, torch.float32, device, "together")
    _, k, v = ops.qk_norm_rotary(*given(case, torch.float32, device), into)
    assert (k is into.k, v is into.v) == (True, True)


def agree(case: Case, dtype: torch.dtype, device: torch.device | str, place: str) -> Closeness:
    """What lies in the cache against the reference without one."""

    def stored(*args):
        into = cache(case, dtype, device, place)
        q, k, v = mot_impl.OPS.qk_norm_rotary(*args, into)
        return q, k[into.rows], v[into.rows]

    ops = dataclasses.replace(mot_impl.OPS, qk_norm_rotary=stored)
    return compare(ops, "qk_norm_rotary", given(case, dtype, device))


@pytest.mark.parametrize("place", PLACES)
def test_the_twins_agree(place, device):
    assert agree(CASES["rows_shuffled"], torch.float16, device, place).ok


@pytest.mark.gpu
@pytest.mark.parametrize("case", BAGEL_CASES.values(), ids=BAGEL_CASES.keys())
@pytest.mark.parametrize("place", PLACES)
def test_the_twins_agree_at_bagels_sizes(place, case):
    assert agree(case, torch.bfloat16, "cuda", place).ok


@pytest.mark.parametrize("place", PLACES)
def test_an_op_that_only_returns_is_made_to_store(place, device):
    """As the ruler's changed ops are."""
    case = CASES["rows_shuffled"]
    args = given(case, torch.float32, device)
    expected, into = cache(case, torch.float32, device, place), cache(case, torch.float32, device, place)
    reference_impl.OPS.qk_norm_rotary(*args, expected)
    storing(lambda *four: reference_impl.OPS.qk_norm_rotary(*four))(*args, into)
    assert all(
        torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in ((into.k, expected.k), (into.v, expected.v))
    )


REFUSED = {
    "too_few_rows": (lambda into: KVSlice(into.k, into.v, slice(0, 3)), "3 rows of a cache for 150 rows of qkv"),
    "another_dtype": (lambda into: KVSlice(into.k.half(), into.v.half(), into.rows), "cached k is torch.float16"),
    "other_heads": (lambda into: KVSlice(into.k[:, :, 1:], into.v[:, :, 1:], into.rows), r"must be \[T, 2, 64\]"),
}


@pytest.mark.parametrize("ops", [mot_impl.OPS, reference_impl.OPS], ids=lambda ops: ops.name)
@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_cache_that_does_not_fit_is_refused(change, message, ops, device):
    case = CASES["text_1"]
    into = cache(case, torch.float32, device, "together")
    with pytest.raises((ValueError, TypeError), match=message):
        ops.qk_norm_rotary(*given(case, torch.float32, device), change(into))


def test_a_cache_whose_heads_lie_apart_is_refused(device):
    case = CASES["text_1"]
    into = cache(case, torch.float32, device, "together")
    apart = torch.zeros(*into.k.shape[:2], 2 * into.k.shape[2], device=device)[..., ::2]
    with pytest.raises(ValueError, match=r"cached k has strides .* heads of a row must be contiguous"):
        mot_impl.OPS.qk_norm_rotary(*given(case, torch.float32, device), KVSlice(apart, into.v, into.rows))
