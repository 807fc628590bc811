"""Known-good implementations: right in exact arithmetic, different in rounding, and gone when they are done."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import reference_impl
from benchmarks.harness.calibrate import Maker
from benchmarks.harness.golden_case import read_case
from benchmarks.harness.good_sums import tiled
from benchmarks.harness.known_good import libraries, rounded_once, variants
from reference_impl.contract import Experts, MoTOps, Route

CPU = torch.device("cpu")
ROUTE = Route.from_mask(torch.tensor([0, 0, 1, 1, 0, 1, 1]).bool())


def layer(dtype: torch.dtype) -> tuple[torch.Tensor, Experts]:
    """Seven rows of 100 columns, which no tile divides."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=draw).to(dtype) for shape in ((7, 100), (2, 6, 100), (2, 6)))
    return x, Experts(weight, bias)


@pytest.mark.parametrize("make", [tiled, rounded_once])
@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_the_reference_in_exact_arithmetic(make: Callable[[int], MoTOps], seed: int) -> None:
    x, experts = layer(torch.float64)
    for op in ("linear", "gated_linear"):
        expected = getattr(reference_impl.OPS, op)(x, experts, ROUTE)
        torch.testing.assert_close(getattr(make(seed), op)(x, experts, ROUTE), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_tiles_round_otherwise_than_the_reference(seed: int) -> None:
    x, experts = layer(torch.float32)
    assert not torch.equal(tiled(seed).linear(x, experts, ROUTE), reference_impl.OPS.linear(x, experts, ROUTE))


def test_a_seed_means_the_same_sums() -> None:
    x, experts = layer(torch.float32)
    assert torch.equal(tiled(5).linear(x, experts, ROUTE), tiled(5).linear(x, experts, ROUTE))


@pytest.mark.parametrize("count", [1, 6, 40])
def test_as_many_variants_as_asked_each_by_another_name(count: int) -> None:
    names = [variant.name for variant in variants(count, CPU, torch.bfloat16)]
    assert (len(names), len(set(names))) == (count, count)


def test_a_small_population_has_every_family() -> None:
    assert {variant.family for variant in variants(6, CPU, torch.float32)} == {
        "wider",
        "tiles",
        "rounded once",
        "library",
        "batch",
        "moved",
    }


def test_settings_of_pytorch_are_as_before_when_a_run_is_done() -> None:
    before = torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.backends.cuda.flash_sdp_enabled()
    for variant in libraries(CPU):
        with variant.settings():
            pass
    assert (torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.backends.cuda.flash_sdp_enabled()) == before


def test_a_picture_is_judged_at_its_place_in_the_batch(unapproved: Path) -> None:
    make = Maker(read_case(unapproved), CPU)
    alone, batched = (make(reference_impl.OPS, torch.float32, batch).latents["x_t"] for batch in ((1, 0), (3, 1)))
    assert np.abs(alone - batched).max() < 1e-5 * np.abs(alone).max()
