"""A change of time must be one of cycles too, where the clock was measured."""

import pytest

from benchmarks.harness.records import Clock
from reports import told
from reports.decide import Rounds


def clock(mhz: int, usual: float | None = None) -> Clock:
    return Clock(float(usual or mhz), [mhz], [50], [400.0], [""], {})


def measured(comparison, rounds: Rounds, head_mhz: int = 1980, slow_round: int | None = None) -> None:
    """Rounds whose head ran at another clock; in one of them, perhaps, base's whole process did."""
    comparison.asked(rounds.series)
    for number, seconds in enumerate(rounds.seconds):
        for side, value in zip(("base", "head", "again"), seconds, strict=True):
            mhz = head_mhz if side == "head" else 1980
            usual = 1500 if number == slow_round and side == "base" else mhz
            comparison.line(rounds.series, side, number, [value], clock=clock(mhz, usual))


def test_more_time_and_more_cycles_is_slower(comparison, rounds) -> None:
    measured(comparison, rounds(slower=0.03))
    (found,) = comparison.judge().decisions
    assert (found.status, found.cycles.status) == ("regressed", "regressed")


def test_more_time_in_the_same_cycles_is_the_clock(comparison, rounds) -> None:
    measured(comparison, rounds(slower=0.02), head_mhz=1941)
    (found,) = comparison.judge().decisions
    assert found.status == "inconclusive"
    assert "in cycles: the clock changed, not the kernel" in found.reason


def test_a_process_far_below_the_clock_of_the_others_does_not_count(comparison, rounds) -> None:
    measured(comparison, rounds(), slow_round=3)
    (found,) = comparison.judge().decisions
    assert (found.rounds, "ran at a lower clock" in found.reason) == (11, True)


def test_without_a_clock_time_alone_decides(comparison, rounds, qkv) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds(slower=0.03))
    (found,) = comparison.judge().decisions
    assert (found.status, found.cycles) == ("regressed", None)


def test_that_the_clock_was_not_measured_is_said(comparison, rounds, qkv) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds())
    assert "clock: not measured" in told.terminal(comparison.judge())


@pytest.mark.parametrize("mhz", [1980, 1941])
def test_cycles_are_time_times_clock(comparison, rounds, mhz: int) -> None:
    measured(comparison, rounds(noise=0.0), head_mhz=mhz)
    (found,) = comparison.judge().decisions
    assert found.cycles.ratio == pytest.approx(mhz / 1980)


@pytest.mark.parametrize("clocks", [[], [1980, 1980], [0]], ids=str)
def test_a_record_without_a_clock_for_every_sample_costs_its_round_and_is_said(
    comparison, rounds, clocks: list[int]
) -> None:
    measured(comparison, rounds())
    bad = Clock(1980.0, clocks, [50], [400.0], [""], {})
    for side in ("base", "head", "again"):
        comparison.line(rounds().series, side, 12, [1.0], clock=bad if side == "head" else clock(1980))
    found = comparison.judge()
    assert (found.decisions[0].rounds, found.decisions[0].cycles is None) == (12, False)
    assert found.damage == ["records without a possible time, or a clock, for every sample: 1; they do not count"]
