"""Tonight's times against a stored baseline, by one simple rule; a sharper statistical gate may replace it.

The process is the unit: each benchmark process gives the median of its samples, a series gives the median of those.

    shift      tonight / baseline - 1
    threshold  the larger of FLOOR and SPREADS times the relative standard deviation of process medians (worse side)
    shared     the median shift of the reference implementation's series: the machine, not the kernel

A series is regressed if both its shift and its shift beyond `shared` exceed the threshold, with at least MIN_PROCESSES
processes on each side; improved likewise downwards. If only some of that holds, it is inconclusive. Where the baseline
is the same commit, nothing can have regressed: the shifts are this machine's noise, and are reported as such.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.harness.records import Status, Timing

FLOOR = {"cpu": 0.10, "gpu": 0.05}
"""Relative shift below which nothing is reported, per profile: nights differ by more than processes of one night do."""
SPREADS = 3.0
MIN_PROCESSES = 3
MIN_SHARED = 3
"""With fewer reference series than this, no shared shift is estimated."""

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Measured:
    """One series of one run. medians: one per process, seconds. peak_memory_bytes: the largest of any process."""

    benchmark: str
    params: dict[str, str]
    medians: list[float]
    n_samples: int
    tile: str
    peak_memory_bytes: int | None

    @property
    def median(self) -> float:
        """Seconds: the median of the processes' medians."""
        return statistics.median(self.medians)

    @property
    def spread(self) -> float:
        """Relative standard deviation of the processes' medians; 0 for a single process, which says nothing."""
        return statistics.stdev(self.medians) / self.median if len(self.medians) > 1 else 0.0


@dataclass(frozen=True)
class Comparison:
    """One series against its baseline. shift and threshold are relative (0.05 is 5 %), baseline and median seconds."""

    benchmark: str
    params: dict[str, str]
    status: Status
    reason: str
    median: float
    baseline: float
    shift: float
    threshold: float
    processes: list[int]
    samples: list[int]


def key(benchmark: str, params: dict[str, str]) -> Key:
    """What makes two records the same series."""
    return benchmark, tuple(sorted(params.items()))


def implementation(params: dict[str, str]) -> str:
    """The implementation a series measures; empty for a benchmark without the axis `impl`."""
    return params.get("impl", "")


def without_implementation(params: dict[str, str]) -> dict[str, str]:
    """The parameters that two implementations share."""
    return {name: value for name, value in params.items() if name != "impl"}


def measured(records: Iterable[Timing]) -> dict[Key, Measured]:
    """Join the processes of each series. A record without a positive sample is no measurement."""
    groups: dict[Key, list[Timing]] = defaultdict(list)
    for record in records:
        if record.samples and all(sample > 0 for sample in record.samples):
            groups[key(record.benchmark, record.params)].append(record)
    return {
        name: Measured(
            group[0].benchmark,
            group[0].params,
            [statistics.median(record.samples) for record in group],
            sum(len(record.samples) for record in group),
            group[0].tile,
            max((r.peak_memory_bytes for r in group if r.peak_memory_bytes is not None), default=None),
        )
        for name, group in groups.items()
    }


def compare(now: dict[Key, Measured], base: dict[Key, Measured], profile: str, same_commit: bool) -> list[Comparison]:
    """Judge every series that both runs measured; `profile` chooses the floor."""
    common = [name for name in now if name in base]
    shifts = [now[n].median / base[n].median - 1 for n in common if implementation(now[n].params) == "reference"]
    shared = statistics.median(shifts) if len(shifts) >= MIN_SHARED else 0.0
    return [_compare(now[name], base[name], shared, FLOOR[profile], same_commit) for name in common]


def _compare(now: Measured, base: Measured, shared: float, floor: float, same_commit: bool) -> Comparison:
    shift = now.median / base.median - 1
    threshold = max(floor, SPREADS * max(now.spread, base.spread))
    processes = [len(now.medians), len(base.medians)]
    status, reason = _judge(shift, shared, threshold, min(processes), same_commit)
    samples = [now.n_samples, base.n_samples]
    return Comparison(
        now.benchmark, now.params, status, reason, now.median, base.median, shift, threshold, processes, samples
    )


def _judge(shift: float, shared: float, threshold: float, processes: int, same_commit: bool) -> tuple[Status, str]:
    moved = f"{shift:+.1%} against a threshold of {threshold:.1%}"
    if abs(shift) <= threshold:
        return "pass", f"{moved}: within noise"
    if same_commit:
        return "pass", f"{moved}, but the baseline is the same commit: this is the machine's noise"
    own = (1 + shift) / (1 + shared) - 1
    if math.copysign(own, own * shift) <= threshold:
        return "inconclusive", f"{moved}, but the reference series moved by {shared:+.1%} too: the machine; run again"
    if processes < MIN_PROCESSES:
        return (
            "inconclusive",
            f"{moved}, but only {processes} of {MIN_PROCESSES} processes on one side; run more rounds",
        )
    return ("regressed", f"{moved}: slower") if shift > 0 else ("improved", f"{moved}: faster")
