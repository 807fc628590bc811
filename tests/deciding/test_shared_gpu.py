"""Another process on the GPU: named in the verdict, and a round that only some sides shared with it does not count."""

from typing import Any

import pytest

from benchmarks.harness.records import Clock
from reports import told
from reports.decide import Rounds

STRANGER = "pid 4711 (trainer)"


def measured(comparison: Any, rounds: Rounds, shared: set[tuple[int, str]]) -> None:
    """Rounds of which some processes saw another one on the GPU."""
    comparison.asked(rounds.series)
    for number, seconds in enumerate(rounds.seconds):
        for side, value in zip(("base", "head", "again"), seconds, strict=True):
            others = [STRANGER] if (number, side) in shared else []
            clock = Clock(1980.0, [1980], [50], [400.0], [""], {}, others)
            comparison.line(rounds.series, side, number, [value], clock=clock)


@pytest.mark.parametrize(
    ("sides", "counted"),
    [
        pytest.param((), 12, id="alone"),
        pytest.param(("head",), 11, id="head-alone-shared-it"),
        pytest.param(("base", "again"), 11, id="both-bases-shared-it"),
        pytest.param(("base", "head", "again"), 12, id="all-alike"),
    ],
)
def test_a_round_that_some_sides_shared_does_not_count(
    comparison: Any, rounds: Any, sides: tuple[str, ...], counted: int
) -> None:
    measured(comparison, rounds(), {(3, side) for side in sides})
    assert comparison.judge().decisions[0].rounds == counted


def test_the_verdict_names_who_it_was(comparison: Any, rounds: Any) -> None:
    measured(comparison, rounds(), {(3, "head")})
    assert f"another process was on the GPU in 1 of 36 processes ({STRANGER})" in told.terminal(comparison.judge())


def test_a_head_that_never_had_the_gpu_alone_is_not_measured(comparison: Any, rounds: Any) -> None:
    measured(comparison, rounds(), {(number, "head") for number in range(12)})
    assert comparison.judge().status == "not-measured"
