"""What the GPU itself did while a sample was taken: SM clock, temperature, power, and why it was slowed.

Read through nvidia-ml-py (the extra `gpu`) while the sample's graph replays, between launch and wait: the device is
busy anyway, and nothing is added to what its events time. Without the package, or where the driver does not answer,
clocks are not measured, and the record says so by having none.

A sample counts unless the GPU was slowed by heat, by its power brake or by a fault, or its clock was far below the
usual one: the median of the end of the warm-up, which goes on while the clock falls. The power limit alone discards
nothing: large matrix products run at it for good, and their clock, which it lowers, is recorded.

Before the first sample and after the last, other processes that compute on the device are looked for.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.harness import clock, nvml
from benchmarks.harness.clock import Cache, Call, Rule
from benchmarks.harness.records import Clock

REASONS = {
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of NVML's clocks event reasons; idle and set clocks are not a slowdown."""
SLOWED = 0x8 | 0x20 | 0x40 | 0x80
"""A sample with one of these does not count."""
FAR_BELOW = 0.97
"""Of the usual clock: an H100's steps are 15 MHz, less than 1 %."""
STEADY = 0.99
"""Of the clock of the window before: a warm-up whose clock has fallen further goes on. At its power limit an H100 took
longer than one window to come down: 594 of 600 samples of a large product were below 97 % of what one had shown."""
MOST_WINDOWS = 20
"""Windows of a warm-up, after which a clock that still falls is left to the samples."""
PATIENCE = 3
"""Times the rule's limit and most, until which discarded samples are made up for."""


@dataclass(frozen=True)
class Reading:
    """One look at the device: MHz, degrees Celsius, watts, and NVML's bits for why the clock is held down."""

    sm_mhz: int
    temperature_c: int
    power_w: float
    reasons: int

    @property
    def words(self) -> str:
        """The reasons, as `power limit+hardware slowdown`; empty if there are none."""
        return "+".join(name for bit, name in REASONS.items() if self.reasons & bit)


Watch = Callable[[], Reading]


def watch() -> Watch | None:
    """What reads the current CUDA device; None where it cannot be read."""
    found = nvml.opened()
    if found is None:
        return None
    library, handle = found

    def read() -> Reading:
        return Reading(
            library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM),
            library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU),
            library.nvmlDeviceGetPowerUsage(handle) / 1000,
            library.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        )

    try:
        read()
    except (library.NVMLError, AttributeError):  # a card, a container or a library that does not tell
        return None
    return read


def measure(calls: Sequence[Call], cache: Cache, rule: Rule = clock.GPU_RULE) -> tuple[list[float], Clock | None]:
    """clock.measure_gpu with the clock of every sample; None, and every sample counts, where it cannot be read."""
    read = watch()
    if read is None:
        return clock.measure_gpu(calls, cache, rule), None
    with clock.replayed(calls, cache) as (graph, repeat):
        before = nvml.others()

        def replays(count: int) -> tuple[float, Reading]:
            seen: list[Reading] = []
            seconds = clock.replay_seconds(graph, count, lambda: seen.append(read()))
            return seconds, seen[0]

        def sample() -> tuple[float, Reading]:
            seconds, reading = replays(1)
            return seconds / repeat, reading

        samples, seen = take(sample, warmed(lambda: replays(5)[1]), rule)
        return samples, replace(seen, others=joined(before, nvml.others()))


def warmed(replay: Callable[[], Reading], now: Callable[[], float] = time.perf_counter) -> list[Reading]:
    """Readings of the last clock.WARM_UP seconds of a warm-up: until the clock falls no further, or MOST_WINDOWS."""
    before = math.inf
    for _ in range(MOST_WINDOWS):
        start = now()
        window = [replay()]
        while now() - start < clock.WARM_UP:
            window.append(replay())
        usual = statistics.median(reading.sm_mhz for reading in window)
        if usual >= STEADY * before:
            break
        before = usual
    return window


def joined(*looks: list[str] | None) -> list[str] | None:
    """Everybody whom any look saw; None if none of them could see."""
    seen = [look for look in looks if look is not None]
    return sorted({name for look in seen for name in look}) if seen else None


def why_discarded(reading: Reading, usual_mhz: float) -> str:
    """Why a sample does not count; empty if it does."""
    if reading.reasons & SLOWED:
        return "+".join(name for bit, name in REASONS.items() if reading.reasons & bit & SLOWED)
    return f"clock below {FAR_BELOW:.0%} of the usual" if reading.sm_mhz < FAR_BELOW * usual_mhz else ""


def take(
    sample: Callable[[], tuple[float, Reading]],
    warm: Sequence[Reading],
    rule: Rule,
    now: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], Clock]:
    """Samples in seconds until `rule` is content with those that count, and the clock of each.

    warm: readings of the warm-up. Raises ValueError if, with patience, too few samples count.
    """
    usual = statistics.median(reading.sm_mhz for reading in warm)
    kept: list[float] = []
    readings: list[Reading] = []
    discarded: Counter[str] = Counter()
    start = now()
    while not rule.done(kept, elapsed := now() - start):
        if elapsed > PATIENCE * rule.limit or len(kept) + discarded.total() >= PATIENCE * rule.most:
            said = ", ".join(f"{n} for {reason}" for reason, n in discarded.most_common())
            raise ValueError(
                f"{len(kept)} samples count and {discarded.total()} do not ({said}), but {rule.least} must; "
                "let the GPU cool and look for another process on it"
            )
        seconds, reading = sample()
        if reason := why_discarded(reading, usual):
            discarded[reason] += 1
        else:
            kept.append(seconds)
            readings.append(reading)
    return kept, Clock(
        usual,
        [one.sm_mhz for one in readings],
        [one.temperature_c for one in readings],
        [round(one.power_w, 1) for one in readings],
        [one.words for one in readings],
        dict(discarded),
    )
