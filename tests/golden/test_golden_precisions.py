"""What a precision costs in pictures: against the float32 truth, and the table of it."""

import dataclasses
from pathlib import Path

import pytest
import torch

import reference_impl
from benchmarks.harness.golden_case import read_case
from benchmarks.harness.golden_precisions import METRICS, Cost, beside, costs, table
from tests.golden.conftest import plan

HALF = plan(dtype=torch.bfloat16)


def test_a_plan_is_beside_both_kinds() -> None:
    assert [one.dtype_name for one in beside(HALF)] == ["bfloat16", "bfloat16-fp8", "bfloat16-int8"]


def test_float32_costs_nothing(approved: Path) -> None:
    (found,) = costs([read_case(approved)], [plan()])
    assert (found.metrics["latent_relative_l2"], found.metrics["flip_worst_tile"], found.error) == (0, 0, "")


def test_quantised_layers_cost_more_than_their_dtype(approved: Path) -> None:
    found = list(costs([read_case(approved)], beside(HALF)))
    dense, *quantised = (one.metrics["latent_relative_l2"] for one in found)
    assert 0 < dense < min(quantised)


def test_a_picture_that_is_not_made_says_why(approved: Path) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no such tile")

    ops = dataclasses.replace(reference_impl.OPS, name="broken", linear=broken)
    (found,) = costs([read_case(approved)], [plan("broken", ops)])
    assert "no such tile" in found.error
    assert "| float32 (0 pictures, 1 not made) | not measured |" in "\n".join(table([found]))


def test_a_case_without_a_golden_is_refused(unapproved: Path) -> None:
    with pytest.raises(ValueError, match="there is no golden"):
        list(costs([read_case(unapproved)], [HALF]))


def test_the_table_has_the_median_and_the_worst_case() -> None:
    values = dict.fromkeys(METRICS, 0.5)
    found = [Cost(name, "bfloat16", {**values, "ssim": ssim, "psnr": psnr}) for name, ssim, psnr in CASES]
    row = table(found)[2].split(" | ")
    assert (row[0], row[1], row[5]) == ("| bfloat16 (3 pictures)", "0.98, 0.9", "8.06, 25.5")


CASES = (("a", 0.99, 40.0), ("b", 0.9, 20.0), ("c", 0.98, 30.0))
