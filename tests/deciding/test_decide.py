"""The rule, fact by fact, and its rate of false alarms."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.harness.records import Series, Timing
from reports import decide, simulate, stats
from reports.decide import Decision, Rounds

Made = Callable[..., Rounds]


def alone(rounds: Rounds, smallest: float = 0.005) -> Decision:
    (found,) = decide.decide([rounds], [smallest])
    return found


@pytest.mark.parametrize(
    ("slower", "noise", "n", "smallest", "expected"),
    [
        pytest.param(0.0, 0.002, 12, 0.005, "pass", id="nothing-changed"),
        pytest.param(0.02, 0.002, 12, 0.005, "regressed", id="slower"),
        pytest.param(-0.02, 0.002, 12, 0.005, "improved", id="faster"),
        pytest.param(0.01, 0.0005, 12, 0.05, "pass", id="certainly-slower-but-by-less-than-matters"),
        pytest.param(0.0, 0.05, 12, 0.005, "inconclusive", id="too-noisy-to-exclude-it"),
        pytest.param(0.04, 0.05, 12, 0.005, "inconclusive", id="larger-than-what-matters-but-within-noise"),
        pytest.param(0.2, 0.002, 3, 0.005, "inconclusive", id="too-few-rounds"),
        pytest.param(0.2, 0.002, 1, 0.005, "inconclusive", id="one-round"),
        pytest.param(0.2, 0.002, 0, 0.005, "not-measured", id="no-round"),
    ],
)
def test_one_series(rounds: Made, slower: float, noise: float, n: int, smallest: float, expected: str) -> None:
    assert alone(rounds(slower, noise, n), smallest).status == expected


def test_the_interval_holds_the_true_ratio(rounds: Made) -> None:
    change = alone(rounds(0.02)).change
    assert change is not None
    assert change.low < 1.02 < change.high


def test_head_is_compared_with_the_mean_of_both_bases(qkv: Series) -> None:
    assert Rounds(qkv, [(1.0, 4.0, 4.0)]).changes == pytest.approx([math.log(2)])


def test_a_drift_that_all_sides_of_a_round_share_changes_nothing(rounds: Made) -> None:
    steady = rounds(0.01)
    drifting = [(b * f, h * f, a * f) for f, (b, h, a) in zip(np.linspace(1, 3, 12), steady.seconds, strict=True)]
    assert Rounds(steady.series, drifting).changes == pytest.approx(steady.changes)


def test_among_many_series_more_is_asked_of_each(rounds: Made) -> None:
    one, others = rounds(0.004, seed=5), [rounds(0.0, seed=seed) for seed in range(20, 60)]
    thresholds = [decide.decide(family, [0.001] * len(family))[0].threshold for family in ([one], [one, *others])]
    assert thresholds[0] < thresholds[1]


def test_where_base_differs_from_base_nothing_is_called(rounds: Made) -> None:
    moved = rounds(0.2)
    moved = Rounds(moved.series, [(base, head, again * 1.05) for base, head, again in moved.seconds])
    found = alone(moved)
    assert found.status == "inconclusive"
    assert "base against base moved" in found.reason


def test_the_pair_of_equals_is_reported(rounds: Made) -> None:
    control = alone(rounds(0.02)).control
    assert control is not None
    assert control.status == "pass"


def test_more_rounds_show_smaller_changes(rounds: Made) -> None:
    assert alone(rounds(n=24)).visible < alone(rounds(n=6)).visible


def timing(side: str, number: int, samples: list[float]) -> Timing:
    return Timing("b", {"x": "1"}, "c", "f", 1, number, 1, "", samples, "", None, side)


def joined(*lines: Timing) -> list[tuple[float, float, float]]:
    return decide.rounds_of(lines, "gpu")["b", (("x", "1"),)].seconds


@pytest.mark.parametrize(("profile", "figure"), [("gpu", 2.0), ("cpu", 1.0)])
def test_a_process_is_the_median_on_a_gpu_and_the_smallest_sample_on_a_cpu(profile: str, figure: float) -> None:
    lines = [timing(side, 0, [1.0, 2.0, 9.0]) for side in ("base", "head", "again")]
    assert decide.rounds_of(lines, profile)["b", (("x", "1"),)].seconds == [(figure, figure, figure)]


def test_of_a_repeated_process_the_last_counts() -> None:
    lines = [timing(side, 0, [1.0]) for side in ("base", "head", "again")]
    assert joined(*lines, timing("head", 0, [3.0])) == [(1.0, 3.0, 1.0)]


def test_a_round_that_misses_a_side_is_counted_and_left_out() -> None:
    found = decide.rounds_of([timing("base", 0, [1.0]), timing("head", 0, [1.0])], "gpu")["b", (("x", "1"),)]
    assert (found.seconds, found.dropped) == ([], 1)


@pytest.mark.parametrize("samples", [[], [0.0], [-1.0], [math.nan], [math.inf]], ids=str)
def test_what_is_no_time_is_no_measurement(samples: list[float]) -> None:
    assert decide.rounds_of([timing("base", 0, samples)], "gpu") == {}


def test_a_process_outside_a_comparison_is_no_side() -> None:
    assert decide.rounds_of([timing("", 0, [1.0])], "gpu") == {}


@pytest.mark.parametrize("kind", ["gaussian", "drift", "bimodal", "tails"])
def test_false_alarms_per_run_are_as_rare_as_promised(kind: str) -> None:
    rng = np.random.default_rng(7)
    noise = simulate.synthetic(kind, rng, 0.003, 0.0005)  # so little matters that the test alone decides
    found = simulate.outcome(noise, 0.0, 12, rng, trials=300, asv_trials=0).gate
    assert found.interval[0] <= decide.FALSE_ALARMS


def test_spending_rounds_by_the_control_costs_no_false_alarms() -> None:
    rng, called, trials = np.random.default_rng(11), 0, 2000
    series = Series("b", {})
    for _ in range(trials):
        seconds = np.exp(0.01 * rng.standard_normal((20, 3))).tolist()
        n = next((n for n in range(4, 20) if decide.need(Rounds(series, seconds[:n]), 0.02, 1) <= 1), 20)
        estimate = stats.paired(Rounds(series, seconds[:n]).changes)
        assert estimate is not None
        called += estimate.p <= 0.05
    assert simulate.Rate(called, trials).interval[0] <= 0.05 <= simulate.Rate(called, trials).interval[1]
