"""The committed limits are those that the committed figures yield, and no figure is of what is not asked any more."""

from pathlib import Path

import pytest

from benchmarks.harness import calibrate_files, calibrate_propose
from benchmarks.harness.calibrate_files import Population
from benchmarks.harness.environment import repository_root
from benchmarks.harness.golden_case import GOLDENS, GoldenCase, read_cases
from benchmarks.harness.golden_limits import KINDS

ROOT = repository_root() / GOLDENS
STORED = calibrate_files.stored(ROOT)
CASES = read_cases(ROOT)
SIZE = 170
"""Bytes that the figures of one run may take: there are thousands."""


def of_figures(case: GoldenCase, population: Population) -> dict[str, dict[str, dict[str, float]]]:
    """Kind -> dtype -> limits, as calibration would set them from these figures."""
    dtypes = sorted(population.cases[case.name])
    (change,) = calibrate_propose.propose([case], population, [], dtypes)
    return {kind: {dtype: change.overlay[kind][dtype].given for dtype in dtypes} for kind in KINDS}


@pytest.mark.parametrize(
    ("case", "population"),
    [
        pytest.param(case, population, id=f"{case.name}-{population.stack.name}")
        for population in STORED
        for case in CASES
        if case.name in population.cases
    ],
)
def test_limits_follow_from_figures(case: GoldenCase, population: Population) -> None:
    overlay = case.overlays[population.stack.name]
    found = of_figures(case, population)
    assert {kind: {dtype: overlay.limits[kind][dtype].given for dtype in found[kind]} for kind in KINDS} == found


@pytest.mark.parametrize("path", sorted(ROOT.glob(f"{calibrate_files.PREFIX}*.json")), ids=lambda path: Path(path).stem)
def test_figures_are_small(path: Path) -> None:
    figures = [one for of_case in calibrate_files.read(path).cases.values() for one in of_case.values()]
    runs = sum(len(one.good.names) + len(one.faults.names) for one in figures)
    assert path.stat().st_size < SIZE * runs


def test_every_case_has_measured_limits() -> None:
    assert [case.name for case in CASES if case.limits_record is None] == []
