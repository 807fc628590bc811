"""What the machine does to every series at once is taken out, and what is left only ever raises a suspicion."""

import math

import numpy as np
import pytest

from benchmarks.harness.records import Series
from reports import beside, trend_told
from reports.history import Line, Point

SERIES = [Series("linear.track_seconds", {"layer": str(i)}) for i in range(6)]
WANDERS = 0.03
"""Of all series alike: three times what a step of 3 % could be seen in alone."""


def nights(told, n: int = 24, at: int = 22, by: float = 1.03, stepping: int = 1, series: int = 6) -> None:
    """Nights of a machine that wanders; the first series step."""
    rng = np.random.default_rng(3)
    for number, level in enumerate(rng.uniform(-WANDERS, WANDERS, n)):
        for i, one in enumerate(SERIES[:series]):
            own = 1e-3 * math.exp(level + 0.001 * rng.standard_normal())
            told.night(number, [own * (by if i < stepping and number >= at else 1.0)] * 3, one)


def test_a_step_that_the_machine_hides_is_suspected(told) -> None:
    nights(told)
    (event,) = [event for event in told.events(24) if event.kind == "slower"]
    assert (event.series, event.certainty, event.beside) == (SERIES[0], "suspected", True)
    assert event.ratio == pytest.approx(1.03, abs=0.005)


def test_a_suspicion_is_no_certainty(told) -> None:
    nights(told)
    assert told.trend(24).status == "inconclusive"


def test_it_is_said_that_only_the_others_show_it(told) -> None:
    nights(told)
    assert "suspected, beside the others" in trend_told.terminal(told.trend(24))


def test_without_a_step_there_is_no_suspicion(told) -> None:
    nights(told, by=1.0)
    assert told.events(24) == []


def test_a_step_of_every_series_cannot_be_seen_here(told) -> None:
    nights(told, stepping=6)
    assert not any(event.beside for event in told.events(24))


def test_too_few_others_say_nothing(told) -> None:
    nights(told, series=beside.LEAST)
    assert told.events(24) == []


def test_a_step_that_shows_by_itself_is_named_once(told) -> None:
    nights(told, by=1.3)
    (event,) = [event for event in told.events(24) if event.series == SERIES[0]]
    assert not event.beside


def line(number: int, centers: list[float], fingerprint: str = "a" * 12, hardware: str = "a GPU") -> Line:
    points = [Point(f"c{i}", f"n{i}", fingerprint, 1, [center] * 3) for i, center in enumerate(centers)]
    return Line(SERIES[number], "seconds", "gpu", hardware, points)


def test_the_median_of_the_others_is_taken_out() -> None:
    others = [line(i, [1.0, 1.1]) for i in range(1, 5)] + [line(5, [1.0, 9.0])]
    own = line(0, [1.0, 1.1 * 1.03])
    first, second = beside.nights([own, *others]).beside(own, own.points) or []
    assert second - first == pytest.approx(math.log(1.03))


@pytest.mark.parametrize("other", [{"fingerprint": "b" * 12}, {"hardware": "a CPU"}], ids=["environment", "machine"])
def test_another_machine_or_environment_is_no_neighbour(other: dict[str, str]) -> None:
    own = line(0, [1.0, 1.1])
    assert beside.nights([own, *(line(i, [1.0, 1.1], **other) for i in range(1, 6))]).beside(own, own.points) is None


def test_a_series_is_not_its_own_neighbour() -> None:
    own = line(0, [1.0, 2.0])
    assert beside.nights([own, *(line(i, [1.0, 1.0]) for i in range(1, 4))]).beside(own, own.points) is None
