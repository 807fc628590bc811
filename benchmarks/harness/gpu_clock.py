"""What the GPU itself did while a sample was taken: SM clock, temperature, power, and why it was slowed.

Read through nvidia-ml-py (the extra `gpu`) while the sample's graph replays, between launch and wait: the device is
busy anyway, and nothing is added to what its events time. Without the package, or where the driver does not answer,
clocks are not measured, and the record says so by having none.

A sample counts unless the GPU was slowed by heat, by its power brake or by a fault, or its clock was far below the
usual one: the median of what the warm-up showed. The power limit alone discards nothing: large matrix products run at
it for good, and their clock, which it lowers, is recorded.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import clock
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
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    import torch

    try:
        nvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")

        def read() -> Reading:
            return Reading(
                nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
                nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
                nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
                nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
            )

        read()
    except (nvml.NVMLError, AttributeError):  # no driver, no permission, or a torch that does not know the device's id
        return None
    return read


def measure(calls: Sequence[Call], cache: Cache, rule: Rule = clock.GPU_RULE) -> tuple[list[float], Clock | None]:
    """clock.measure_gpu with the clock of every sample; None, and every sample counts, where it cannot be read."""
    read = watch()
    if read is None:
        return clock.measure_gpu(calls, cache, rule), None
    with clock.replayed(calls, cache) as (graph, repeat):
        warm: list[Reading] = []
        start = time.perf_counter()
        while time.perf_counter() - start < clock.WARM_UP or not warm:
            clock.replay_seconds(graph, 5, lambda: warm.append(read()))

        def sample() -> tuple[float, Reading]:
            seen: list[Reading] = []
            seconds = clock.replay_seconds(graph, 1, lambda: seen.append(read())) / repeat
            return seconds, seen[0]

        return take(sample, warm, rule)


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
