"""Pictures that the gate must tell apart, and limits that nothing comes near."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness import goldens
from benchmarks.harness.golden_case import read_case, read_cases
from benchmarks.harness.golden_watch import RUNS, another_golden, another_seed, lines, stale, status, watch
from benchmarks.harness.records import Control, Golden, GoldenWatch, append_line
from tests.golden.conftest import approve, change, plan


@pytest.fixture
def pair(approved: Path) -> Path:
    """The folder of two approved cases of one size and other seeds."""
    other = Path(shutil.copytree(approved, approved.parent / "other"))
    change(other, seed=5)
    approve(other)
    return approved.parent


def test_a_golden_in_place_of_another_is_outside(pair: Path) -> None:
    control = another_golden(read_cases(pair))
    assert (control.outside, control.what) == (True, "the golden of small in place of other's")


def test_the_next_seed_is_outside(approved: Path) -> None:
    control = another_seed([read_case(approved)], plan())
    assert (control.outside, control.what) == (True, "small from seed 2")


def test_limits_that_see_nothing_are_a_blind_gate(pair: Path) -> None:
    for folder in pair.iterdir():
        change(folder, limits={kind: {"float32": {"absmax": 255.0}} for kind in ("parity", "drift")})
    found = watch(read_cases(pair), plan(), pair / "runs")
    assert ([control.outside for control in found.controls], status(found)) == ([False, False], "regressed")
    assert "NOT told apart" in lines(found)[0]


def test_without_goldens_the_controls_are_not_measured(unapproved: Path) -> None:
    found = watch([read_case(unapproved)], plan(), unapproved / "runs")
    assert ([control.outside for control in found.controls], status(found)) == ([None, None], "not-measured")


def test_controls_that_are_outside_pass() -> None:
    assert status(GoldenWatch([Control("", "", True, "")], [])) == "pass"


@pytest.fixture
def history(approved: Path) -> Callable[..., list[Golden]]:
    """A function that makes as many records as scores, of a picture that moved unless `identical`."""
    (record,) = goldens.check([read_case(approved)], plan(), approved / "out")

    def made(*scores: float, identical: bool = False) -> list[Golden]:
        return [dataclasses.replace(record, score=score, identical=identical) for score in scores]

    return made


def test_thirty_runs_far_below_a_limit_make_it_stale(history: Callable[..., list[Golden]]) -> None:
    (found,) = stale(history(0.9, *[0.2] * RUNS))
    assert (found.case, found.against, found.runs, found.p99, found.largest) == ("small", "golden", 30, 0.2, 0.2)


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param([0.2] * (RUNS - 1), id="too-few-runs"),
        pytest.param([0.2] * (RUNS - 1) + [0.9], id="one-came-near"),
        pytest.param([0.3] * RUNS, id="over-a-quarter"),
    ],
)
def test_a_limit_that_is_used_or_little_tried_is_not_stale(
    history: Callable[..., list[Golden]], scores: list[float]
) -> None:
    assert stale(history(*scores)) == []


def test_identical_pictures_say_nothing_of_a_limit(history: Callable[..., list[Golden]]) -> None:
    assert stale(history(*[0.0] * RUNS, identical=True)) == []


def test_stale_limits_are_found_in_the_records_of_runs(
    history: Callable[..., list[Golden]], pair: Path, tmp_path: Path
) -> None:
    for number, record in enumerate(history(*[0.1] * RUNS)):
        append_line(tmp_path / "runs" / f"{number:03}" / "golden.jsonl", record)
    found = watch(read_cases(pair), plan(), tmp_path / "runs")
    assert [one.runs for one in found.stale] == [RUNS]
    assert "of the last 30 runs that moved, 99 % used under 10% of it" in lines(found)[-1]
