"""Where a series stepped, and where it only looks like it."""

import numpy as np
import pytest

from reports import steps


def noisy(n: int, noise: float = 0.01, seed: int = 1) -> np.ndarray:
    return noise * np.random.default_rng(seed).standard_normal(n)


def stepped(n: int, at: int, shift: float, noise: float = 0.005) -> list[float]:
    values = noisy(n, noise)
    values[at:] += shift
    return values.tolist()


def test_a_step_is_found_where_it_is() -> None:
    assert [step.at for step in steps.steps(stepped(40, 25, 0.03), 0.01)] == [25]


def test_a_step_is_seen_on_its_second_night_if_it_is_large() -> None:
    assert [step.seen for step in steps.steps(stepped(40, 25, 0.10), 0.01)] == [26]


def test_a_step_down_is_one_too() -> None:
    (step,) = steps.steps(stepped(40, 25, -0.05), 0.01)
    assert step.shift == pytest.approx(-0.05, abs=0.005)


def test_two_steps_are_two() -> None:
    values = np.asarray(stepped(60, 20, 0.05)) + np.where(np.arange(60) >= 40, 0.05, 0.0)
    assert [step.at for step in steps.steps(values.tolist(), 0.01)] == [20, 40]


def test_one_bad_night_is_no_step() -> None:
    values = noisy(40, 0.003)
    values[25] += 0.5
    assert steps.steps(values.tolist(), 0.01) == []


def test_what_does_not_matter_is_no_step() -> None:
    assert steps.steps(stepped(60, 30, 0.01, noise=0.0005), 0.02) == []


def test_it_never_takes_back_what_it_said() -> None:
    values = stepped(60, 30, 0.04)
    seen: list[int] = []
    for night in range(1, 61):
        now = [step.seen for step in steps.steps(values[:night], 0.01)]
        assert now[: len(seen)] == seen
        seen = now


def test_neighbouring_cuts_that_fit_as_well_are_named() -> None:
    values = np.asarray(stepped(40, 25, 0.04, noise=0.004))
    values[25] = 0.02  # half-way: before or after, who knows
    (step,) = steps.steps(values.tolist(), 0.01)
    assert (step.first, step.last) == (25, 26)


def test_a_machine_that_is_busy_for_a_while_needs_more_evidence() -> None:
    rng = np.random.default_rng(5)
    busy = np.repeat(0.01 * rng.standard_normal(30), 4)
    assert steps.steps((busy + 0.002 * rng.standard_normal(120)).tolist(), 0.01) == []


def test_a_suspicion_is_at_the_end_only() -> None:
    values = stepped(33, 30, 0.025, noise=0.01)
    doubtful = steps.suspicion(values, 0.01)
    assert doubtful is not None
    assert doubtful.at in (29, 30, 31)
    assert steps.suspicion([*values[:30], *noisy(20, 0.01, seed=3)], 0.01) is None


def test_equal_numbers_that_step_are_certain() -> None:
    (step,) = steps.steps([0.0] * 10 + [0.1] * 2, 0.01)
    assert (step.at, step.p) == (10, 0.0)


def test_fewer_points_than_a_level_needs_are_no_step() -> None:
    assert steps.steps([0.0, 0.0, 0.0, 0.0, 1.0, 1.0], 0.01) == []


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="point 3 is not a finite number"):
        steps.steps([0.0, 0.0, 0.0, float("nan")], 0.01)
