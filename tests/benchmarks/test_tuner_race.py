"""Races between candidates of known speed: who wins, who drops out and when, and what a ratio says."""

import itertools
import math
import random

import pytest

from benchmarks.harness.tuner_race import Rule, race, ratio, winner

FAST, NEAR, SLOW, HOPELESS = "fast", "near", "slow", "hopeless"
SPEEDS = {FAST: 1.0, NEAR: 1.002, SLOW: 1.1, HOPELESS: 2.0}


def runners(names=tuple(SPEEDS), noise=0.01, seed=0, drift=1.0):
    """Candidates with noise of their own, on a machine that gets slower by `drift` with each sample."""
    draw, slower = random.Random(seed), itertools.count()
    return {name: lambda n=name: SPEEDS[n] * draw.gauss(1, noise) * drift ** next(slower) for name in names}


def test_the_fastest_wins():
    assert winner(race(runners((FAST, SLOW, HOPELESS)))) == FAST


@pytest.mark.parametrize("seed", range(5))
def test_the_fastest_wins_on_a_machine_that_slows_down(seed):
    assert winner(race(runners((SLOW, FAST), seed=seed, drift=1.05))) == FAST


def test_a_hopeless_candidate_is_measured_once():
    assert len(race(runners())[HOPELESS]) == 1


def test_a_slower_candidate_drops_out_with_the_statistics():
    assert 3 <= len(race(runners())[SLOW]) < 12


def test_candidates_that_cannot_be_told_apart_run_to_the_end():
    assert {name: len(seconds) for name, seconds in race(runners((FAST, NEAR))).items()} == {FAST: 12, NEAR: 12}


def test_one_candidate_is_enough():
    assert len(race(runners((SLOW,)))[SLOW]) == 1


def test_time_ends_a_race_after_a_whole_round():
    seconds = race(runners((FAST, NEAR)), until=0.0, now=lambda: 1.0)
    assert [len(found) for found in seconds.values()] == [1, 1]


def test_every_candidate_is_warmed_up_once_more_than_it_counts():
    calls = {FAST: 0, NEAR: 0}

    def counted(name):
        calls[name] += 1
        return 1.0

    seconds = race({name: lambda n=name: counted(n) for name in calls}, Rule(most=4))
    assert [calls[name] - len(found) for name, found in seconds.items()] == [1, 1]


def test_one_that_dropped_out_does_not_win():
    assert winner({"early": [0.5], "late": [1.0, 1.0]}) == "late"


def test_without_candidates_there_is_no_winner():
    with pytest.raises(ValueError, match="no candidate was measured"):
        winner({})


def test_a_ratio_is_taken_round_by_round():
    middle, low, high = ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert (middle, low, high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_noisy_ratio_has_a_wide_interval_around_it():
    middle, low, high = ratio([1.0, 1.2, 0.9], [1.0, 1.0, 1.0])
    assert (low < middle < high, high / low > 1.5) == (True, True)


def test_one_round_says_nothing_of_the_interval():
    assert ratio([1.0], [2.0]) == (0.5, 0.0, math.inf)
