"""The self-test tells a detector that sees from one that does not, and one that cries wolf from one that is quiet."""

import numpy as np
import pytest

from reports import trend_selftest as selftest
from reports.trend_selftest import Table


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def table(rng: np.random.Generator) -> Table:
    return Table("quiet", [0.003 * rng.standard_normal((400, 3))], 0.01)


def test_ours_finds_a_step_of_3_percent_within_3(table: Table, rng: np.random.Generator) -> None:
    assert selftest.power(table, selftest.ours(table), 0.03, 40, rng).hits >= 39


def test_ours_is_quiet(table: Table, rng: np.random.Generator) -> None:
    assert selftest.alarms(table, selftest.ours(table), 40, rng) == (0, 4000)


def test_paired_rounds_find_what_a_history_alone_does_not(rng: np.random.Generator) -> None:
    table = Table("noisy", [0.01 * rng.standard_normal((400, 1)) + np.zeros((400, 3))], 0.015)
    alone = selftest.power(table, selftest.ours(table), 0.03, 60, rng).hits
    assert selftest.power(table, selftest.confirming(table, rng), 0.03, 60, rng).hits > alone + 10


def test_a_detector_that_always_reports_is_found_out(table: Table, rng: np.random.Generator) -> None:
    assert selftest.alarms(table, selftest.nightly(lambda values: {len(values) - 1}), 2, rng)[0] > 20


def test_a_report_after_the_last_night_does_not_count(table: Table, rng: np.random.Generator) -> None:
    late = selftest.nightly(lambda values: {0})
    assert selftest.power(table, late, 0.03, 5, rng).hits == 0


def test_asv_at_its_default_does_not_see_3_percent(table: Table, rng: np.random.Generator) -> None:
    assert selftest.power(table, selftest.asv(0.05), 0.03, 10, rng).hits == 0


def test_a_history_keeps_neighbouring_rounds_together(rng: np.random.Generator) -> None:
    table = Table("counted", [np.repeat(np.arange(40.0)[:, None], 3, axis=1)], 0.01)
    steps = np.diff(table.history(0, selftest.BLOCK * 5, rng).values)
    assert (steps == 1).sum() >= 5 * (selftest.BLOCK - 1) - 5
