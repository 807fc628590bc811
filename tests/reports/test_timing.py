"""The rule for time, number by number."""

from dataclasses import replace

import pytest

from benchmarks.harness.records import Clock, Timing
from reports import timing


def records(medians: list[float], impl: str = "fused", shape: str = "small") -> list[Timing]:
    """One process per median, its samples around it."""
    return [
        Timing(
            "linear.track_seconds",
            {"impl": impl, "shape": shape},
            "c",
            "f",
            1,
            i,
            i,
            "",
            [m * 0.99, m, m * 1.01],
            "t",
            5,
        )
        for i, m in enumerate(medians)
    ]


def status(now: list[float], base: list[float], profile: str = "gpu") -> str:
    (found,) = timing.compare(
        timing.measured(records(now), "gpu"), timing.measured(records(base), "gpu"), profile, False
    )
    return found.status


def test_the_process_is_the_unit() -> None:
    (one,) = timing.measured(records([1.0, 2.0, 9.0]), "gpu").values()
    assert (one.median, one.n_samples, one.figures) == (2.0, 9, [1.0, 2.0, 9.0])


@pytest.mark.parametrize(
    ("now", "base", "expected"),
    [
        pytest.param([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "pass", id="equal"),
        pytest.param([1.049] * 3, [1.0] * 3, "pass", id="just-under-what-matters"),
        pytest.param([1.051] * 3, [1.0] * 3, "regressed", id="just-over-what-matters"),
        pytest.param([0.949] * 3, [1.0] * 3, "improved", id="faster"),
        pytest.param([1.1, 1.2, 1.3], [1.0] * 3, "inconclusive", id="noise-may-explain-it"),
        pytest.param([1.2] * 3, [0.8, 1.0, 1.2], "inconclusive", id="noise-of-the-baseline-may-explain-it"),
        pytest.param([1.2, 1.21, 1.22], [1.0, 1.01, 1.02], "regressed", id="noise-does-not-explain-it"),
        pytest.param([0.99, 1.0, 1.4], [1.0] * 3, "inconclusive", id="one-slow-process"),
        pytest.param([1.2] * 2, [1.0] * 3, "inconclusive", id="too-few-processes"),
        pytest.param([1.2] * 3, [1.0], "inconclusive", id="too-few-in-the-baseline"),
    ],
)
def test_one_series(now: list[float], base: list[float], expected: str) -> None:
    assert status(now, base) == expected


def test_a_cpu_has_a_higher_floor_than_a_gpu() -> None:
    assert (status([1.08] * 3, [1.0] * 3, "cpu"), status([1.08] * 3, [1.0] * 3, "gpu")) == ("pass", "regressed")


def reference(factor: float) -> list[Timing]:
    return [r for shape in ("a", "b", "c") for r in records([factor] * 3, "reference", shape)]


def test_a_kernel_slower_than_the_machine_alone_explains_is_regressed() -> None:
    now = timing.measured([*reference(1.08), *records([1.3] * 3)], "gpu")
    found = timing.compare(now, timing.measured([*reference(1.0), *records([1.0] * 3)], "gpu"), "gpu", False)
    assert {c.params["impl"]: c.status for c in found} == {"reference": "inconclusive", "fused": "regressed"}


def test_a_sample_that_is_no_time_is_no_measurement() -> None:
    assert timing.measured(records([0.0, -1.0, float("nan")]), "gpu") == {}


def test_only_series_of_both_runs_are_compared() -> None:
    now = timing.measured([*records([1.0] * 3, shape="new"), *records([1.0] * 3, shape="both")], "gpu")
    found = timing.compare(now, timing.measured(records([1.0] * 3, shape="both"), "gpu"), "gpu", False)
    assert [c.params["shape"] for c in found] == ["both"]


def test_what_the_clock_said_is_joined_over_the_processes() -> None:
    clock = Clock(1980.0, [1980, 1970, 1980], [50] * 3, [400.0] * 3, [""] * 3, {"power cap": 2})
    lines = [replace(record, clock=clock, compile_seconds=i + 1.0) for i, record in enumerate(records([1.0, 1.0]))]
    (one,) = timing.measured(lines, "gpu").values()
    assert (one.clock_mhz, one.compile_seconds, one.discarded) == (1980, 2.0, {"power cap": 4})


def test_a_clock_that_was_not_measured_is_no_number() -> None:
    (one,) = timing.measured(records([1.0]), "gpu").values()
    assert (one.clock_mhz, one.compile_seconds, one.discarded) == (None, None, {})
