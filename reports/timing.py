"""Tonight's times against a stored baseline: a watch that says where to measure, not what a gate may decide.

The baseline is another night, so no round pairs the two sides, and nights differ by more than the processes of one
night: hence only a shift far larger than what `motbench gate` can see matters. Beyond it the statistics are those of
the gate (reports/stats.py), for unpaired processes: Student's t on the logarithms of the processes' figures, at Holm's
level for the suite, with the same rate of false alarms.

    shift      tonight / baseline - 1: the ratio of the geometric means of the processes' figures
    threshold  the larger of MATTERS and what Student's t asks of this series' noise
    shared     the median shift of the reference implementation's series: the machine, not the kernel

A series within MATTERS passes. Beyond it, it is regressed if its shift and its shift beyond `shared` exceed the
threshold, with at least MIN_PROCESSES processes on each side; improved likewise downwards; else it is inconclusive, and
`motbench compare` of the two commits settles it. Where the baseline is the same commit, nothing can have regressed: the
shifts are this machine's noise, and are reported as such.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.harness.records import Status, Timing
from reports import stats
from reports.decide import FALSE_ALARMS
from reports.stats import Estimate

MATTERS = {"cpu": 0.10, "gpu": 0.05}
"""Relative shift below which nothing is reported, per profile: nights differ by more than processes of one night do."""
MIN_PROCESSES = 3
MIN_SHARED = 3
"""With fewer reference series than this, no shared shift is estimated."""

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Measured:
    """One series of one run. figures: one per process, seconds. peak_memory_bytes: the largest of any process.

    compile_seconds  of its kernels, the largest of any process; None where none was compiled anew
    clock_mhz        SM clock of the samples, the median; None where it was not measured
    discarded        samples that do not count, by reason
    """

    benchmark: str
    params: dict[str, str]
    figures: list[float]
    n_samples: int
    tile: str
    peak_memory_bytes: int | None
    compile_seconds: float | None = None
    clock_mhz: float | None = None
    discarded: dict[str, int] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds: the median of the processes' figures."""
        return statistics.median(self.figures)

    @property
    def spread(self) -> float:
        """Relative standard deviation of the processes' figures; 0 for a single process, which says nothing."""
        return statistics.stdev(self.figures) / self.median if len(self.figures) > 1 else 0.0

    @property
    def typical(self) -> float:
        """Seconds: the geometric mean of the processes' figures."""
        return statistics.geometric_mean(self.figures)


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


def measured(records: Iterable[Timing], profile: str) -> dict[Key, Measured]:
    """Join the processes of each series. A record without a positive sample is no measurement."""
    groups: dict[Key, list[Timing]] = defaultdict(list)
    for record in records:
        if record.samples and all(sample > 0 for sample in record.samples):
            groups[key(record.benchmark, record.params)].append(record)
    return {name: _joined(group, profile) for name, group in groups.items()}


def _joined(group: list[Timing], profile: str) -> Measured:
    clocks = [record.clock for record in group if record.clock is not None]
    speeds = [mhz for clock in clocks for mhz in clock.sm_mhz]
    discarded: Counter[str] = Counter()
    for clock in clocks:
        discarded.update(clock.discarded)
    return Measured(
        group[0].benchmark,
        group[0].params,
        [stats.figure(record.samples, profile) for record in group],
        sum(len(record.samples) for record in group),
        group[0].tile,
        max((r.peak_memory_bytes for r in group if r.peak_memory_bytes is not None), default=None),
        max((r.compile_seconds for r in group if r.compile_seconds is not None), default=None),
        statistics.median(speeds) if speeds else None,
        dict(discarded),
    )


def compare(now: dict[Key, Measured], base: dict[Key, Measured], profile: str, same_commit: bool) -> list[Comparison]:
    """Judge every series that both runs measured; `profile` chooses what matters."""
    common = [name for name in now if name in base]
    shifts = [_shift(now[n], base[n]) for n in common if implementation(now[n].params) == "reference"]
    shared = statistics.median(shifts) if len(shifts) >= MIN_SHARED else 0.0
    estimates = [stats.unpaired(now[name].figures, base[name].figures) for name in common]
    # A lone process has no error: it is never significant, but counts as a hypothesis.
    levels = stats.holm([1.0 if one is None else one.p for one in estimates], FALSE_ALARMS)
    machine = _Machine(shared, MATTERS[profile], same_commit)
    return [
        _compare(now[name], base[name], machine, _noise(estimate, level))
        for name, estimate, level in zip(common, estimates, levels, strict=True)
    ]


@dataclass(frozen=True)
class _Machine:
    """What every series of a night has in common."""

    shared: float
    matters: float
    same_commit: bool


def _shift(now: Measured, base: Measured) -> float:
    return now.typical / base.typical - 1


def _noise(estimate: Estimate | None, level: float) -> float:
    """The shift that noise alone would hardly reach; infinite if nothing is known of it."""
    margin = math.inf if estimate is None else estimate.margin(level)
    return math.expm1(margin) if margin < 700 else math.inf


def _compare(now: Measured, base: Measured, machine: _Machine, noise: float) -> Comparison:
    shift, threshold = _shift(now, base), max(machine.matters, noise)
    processes = [len(now.figures), len(base.figures)]
    status, reason = _judge(shift, threshold, machine, min(processes))
    samples = [now.n_samples, base.n_samples]
    return Comparison(
        now.benchmark, now.params, status, reason, now.median, base.median, shift, threshold, processes, samples
    )


def _judge(shift: float, threshold: float, machine: _Machine, processes: int) -> tuple[Status, str]:
    moved = f"{shift:+.1%}"
    if abs(shift) <= machine.matters:
        return "pass", f"{moved}, within the {machine.matters:.0%} that matter"
    if machine.same_commit:
        return "pass", f"{moved}, but the baseline is the same commit: this is the machine's noise"
    own = (1 + shift) / (1 + machine.shared) - 1
    if math.copysign(own, own * shift) <= machine.matters:
        shared = f"{machine.shared:+.1%}"
        return "inconclusive", f"{moved}, but the reference series moved by {shared} too: the machine; run again"
    if processes < MIN_PROCESSES:
        return "inconclusive", f"{moved}, but only {processes} of {MIN_PROCESSES} processes on one side"
    if min(abs(shift), math.copysign(own, own * shift)) <= threshold:
        return "inconclusive", f"{moved} against a threshold of {threshold:.1%}: noise may explain it"
    moved = f"{moved} against a threshold of {threshold:.1%}"
    return ("regressed", f"{moved}: slower") if shift > 0 else ("improved", f"{moved}: faster")
