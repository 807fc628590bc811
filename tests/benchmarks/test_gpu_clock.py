"""Which samples count, from readings as an H100 gives them."""

import itertools
import sys
from collections.abc import Callable, Iterable

import pytest

from benchmarks.harness import gpu_clock
from benchmarks.harness.clock import Rule
from benchmarks.harness.gpu_clock import Reading
from benchmarks.harness.records import Clock

RULE = Rule(target=-1.0, least=5, most=10, limit=1.0)
WARM = [Reading(1980, 45, 500.0, 0)] * 5
GOOD = Reading(1980, 47, 520.0, 0)
HOT = Reading(1980, 88, 520.0, 0x20)
SLOW = Reading(1815, 47, 500.0, 0)
CAPPED = Reading(1965, 60, 700.0, 0x4)
IDLE = Reading(1980, 40, 120.0, 0x1)


def taken(readings: Iterable[Reading], seconds: float = 1e-3) -> tuple[list[float], Clock]:
    left, ticks = iter(readings), itertools.count(0, 1e-4)
    return gpu_clock.take(lambda: (seconds, next(left)), WARM, RULE, lambda: next(ticks))


def test_every_sample_has_its_clock() -> None:
    samples, clock = taken([GOOD] * 10)
    assert (len(samples), clock.sm_mhz, clock.temperature_c, clock.power_w) == (
        10,
        [1980] * 10,
        [47] * 10,
        [520.0] * 10,
    )


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        (HOT, "software thermal slowdown"),
        (SLOW, "clock below 97% of the usual"),
        (Reading(1980, 47, 500.0, 0x8), "hardware slowdown"),
        (Reading(1980, 47, 500.0, 0x48), "hardware slowdown+hardware thermal slowdown"),
        (Reading(1980, 47, 500.0, 0x80), "power brake"),
    ],
)
def test_a_slowed_sample_is_discarded_and_counted(reading: Reading, reason: str) -> None:
    samples, clock = taken([GOOD, reading, *[GOOD] * 9])
    assert (len(samples), clock.discarded) == (10, {reason: 1})


@pytest.mark.parametrize("reading", [CAPPED, IDLE], ids=["power limit", "idle"])
def test_what_is_usual_for_the_card_counts(reading: Reading) -> None:
    samples, clock = taken([reading] * 10)
    assert (len(samples), clock.discarded) == (10, {})


def test_the_power_limit_is_recorded() -> None:
    assert taken([CAPPED, *[GOOD] * 9])[1].reasons == ["power limit", *[""] * 9]


def test_a_gpu_that_stays_slowed_is_no_measurement() -> None:
    with pytest.raises(
        ValueError, match=r"0 samples count and 30 do not \(30 for software thermal slowdown\), but 5 must"
    ):
        taken(itertools.repeat(HOT))


@pytest.mark.parametrize(
    ("clocks", "usual"),
    [
        pytest.param([1980, 1980, 1500], 1980, id="steady-at-once"),
        pytest.param([1980, 1800, 1620, 1545, 1530, 1400], 1530, id="falling-to-the-power-limit"),
        pytest.param([1500, 1980, 1980], 1980, id="rising"),
    ],
)
def test_a_warm_up_goes_on_while_the_clock_falls(clocks: list[int], usual: int) -> None:
    ticks = itertools.count(0, 0.06)  # two readings a window
    readings = (Reading(mhz, 60, 690.0, 0x4) for mhz in clocks for _ in range(2))
    window = gpu_clock.warmed(lambda: next(readings), lambda: next(ticks))
    assert [reading.sm_mhz for reading in window] == [usual] * 2


def test_a_warm_up_ends_though_the_clock_falls_for_good() -> None:
    falling = (Reading(1980 - 30 * i, 60, 690.0, 0x4) for i in range(60))
    ticks = itertools.count(0, 1.0)
    assert len(gpu_clock.warmed(lambda: next(falling), lambda: next(ticks))) == 1


def test_without_the_package_the_clock_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    assert gpu_clock.watch() is None


@pytest.fixture
def on_the_gpu() -> Callable[[], object]:
    import torch

    x = torch.randn(512, 512, device="cuda")
    return lambda: x @ x


@pytest.mark.gpu
def test_the_clock_of_a_real_gpu_is_read(on_the_gpu: Callable[[], object]) -> None:
    pytest.importorskip("pynvml")
    samples, clock = gpu_clock.measure([on_the_gpu], "hot")
    assert clock is not None
    assert len(clock.sm_mhz) == len(samples)
    assert min(clock.sm_mhz) > 200


@pytest.mark.gpu
def test_a_sleep_on_a_real_gpu_is_as_long_as_asked() -> None:
    from benchmarks.harness import clock, injected

    with clock.replayed([injected.sleep(1e-3, "cuda", None)], "hot") as (graph, repeat):
        assert clock.replay_seconds(graph, 20) / repeat == pytest.approx(1e-3, rel=0.05)
