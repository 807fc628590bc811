"""The self-test: recorded noise in, rates with intervals out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from asv.commands.compare import _is_result_better
from asv_runner.statistics import compute_stats

from benchmarks.harness.records import Series
from reports import simulate
from reports.decide import Rounds

Made = Callable[..., Rounds]
BASE = "a" * 40


@pytest.fixture
def itself(comparison: Any, rounds: Made, qkv: Series, rms: Series) -> Any:
    """A commit against itself: two series, twelve rounds."""
    comparison.asked(qkv, rms, head=BASE)
    for series in (qkv, rms):
        comparison.measured(rounds(seed=len(series.label), series=series), head=BASE)
    return comparison


def test_recorded_noise_knows_its_spread(itself: Any) -> None:
    assert simulate.recorded(itself.folder).spread == pytest.approx([0.002, 0.002], rel=0.5)


def test_fewer_than_thirty_processes_are_refused(comparison: Any, rounds: Made, qkv: Series) -> None:
    comparison.asked(qkv, head=BASE)
    comparison.measured(rounds(n=9), head=BASE)
    with pytest.raises(ValueError, match="has 27 processes per series in whole rounds; at least 30"):
        simulate.recorded(comparison.folder)


def test_the_report_has_a_row_per_slowdown_and_a_column_per_rule(itself: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIALS_NONE", "TRIALS", "ASV_TRIALS"):
        monkeypatch.setattr(simulate, name, 2)
    rows = [line for line in simulate.report(itself.folder, 6, None).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(simulate.SLOWDOWNS)
    assert {row.count("|") for row in rows} == {1 + 3 + len(simulate.ASV_FACTORS) + 1}


def test_the_same_seed_gives_the_same_report(itself: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIALS_NONE", "TRIALS", "ASV_TRIALS"):
        monkeypatch.setattr(simulate, name, 2)
    assert simulate.report(itself.folder, 6, None) == simulate.report(itself.folder, 6, None)


def test_a_large_slowdown_is_always_found() -> None:
    rng = np.random.default_rng(5)
    noise = simulate.synthetic("gaussian", rng, 0.003, 0.005)
    assert simulate.outcome(noise, 0.1, 12, rng, trials=20, asv_trials=0).gate.hits == 20


@pytest.mark.parametrize("factor", [1.005, 1.05, 1.1])
@pytest.mark.parametrize("slower", [0.0, 0.03, 0.08, 0.2])
def test_asv_is_asked_as_asv_asks_itself(slower: float, factor: float) -> None:
    rng = np.random.default_rng(9)
    base, head, again = (np.exp(0.02 * rng.standard_normal((12, 10))) * [[1 + by]] for by in (0, slower, 0))
    triplets = list(zip(base.tolist(), head.tolist(), again.tolist(), strict=True))
    old, new = [x for b, _, a in triplets for x in (*b, *a)], [x for _, h, _ in triplets for x in h]
    (a, a_stats), (b, b_stats) = compute_stats(old, 1), compute_stats(new, 1)
    expected = _is_result_better(a, b, (a_stats, old), (b_stats, new), factor)
    assert (simulate._asv_ratio(triplets) > factor) == expected


def test_a_rate_has_an_exact_interval() -> None:
    assert str(simulate.Rate(0, 2000)) == "0.0% (0.0% to 0.2%)"
