"""Did HEAD get slower than BASE? Decided per series and for the run; docs/measuring.md ("Deciding") explains the rule.

The process is the unit: each gives one number (stats.figure). A round is a pair: base, again (the base once more) and
head, measured one after the other. Per round and series there are two numbers:

    change   log(head) - mean(log(base), log(again))     what head costs
    control  log(again) - log(base)                      what nothing costs: the A/A pair

A series is called regressed or improved if its mean change passes its threshold: the larger of the smallest effect
that matters and what Student's t, at Holm's level, asks of this series' own noise. It passes if a slowdown that matters
can be excluded; else it is inconclusive. Under normal noise control and change are independent: who spends rounds by
looking at the control alone (`need`) has not peeked at the answer.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.harness.records import Failure, Series, Status, Timing
from reports import stats, words
from reports.stats import Estimate

FALSE_ALARMS = 0.005
"""Probability that a run in which nothing changed calls anything at all; of one run, however many series it has."""
MISSES = 0.05
"""Probability, per series, that one which got slower by what matters passes."""
POWER = 0.9
"""`visible` is the slowdown that would have been called with this probability."""

MATTERS = {"gpu": 0.005, "cpu": 0.02}
"""Smallest change of a kernel or a layer that matters, by profile. Half of what should be found for certain."""
MATTERS_END_TO_END = {"gpu": 0.01, "cpu": 0.02}
END_TO_END = ("generate.", "full_size.")
"""Benchmarks of a step or a picture."""

SLOW_CLOCK = 0.97
"""A process whose usual clock is below this share of the others' does not count."""

LEAST = 4
"""Rounds before anything is decided: two or three can agree by chance, or because a timer has so few digits."""

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Rounds:
    """The whole rounds of one series: (base, head, again) in seconds each.

    dropped  rounds that miss a side
    cycles   the same in cycles of the SM clock; empty unless every process recorded its clock
    """

    series: Series
    seconds: list[tuple[float, float, float]]
    dropped: int = 0
    cycles: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def changes(self) -> list[float]:
        """What head costs, per round, as a logarithm."""
        return _changes(self.seconds)

    @property
    def controls(self) -> list[float]:
        """What nothing costs, per round, as a logarithm."""
        return [math.log(again / base) for base, _, again in self.seconds]


@dataclass(frozen=True)
class Effect:
    """A ratio with its interval and what was made of it. Ratios are head / base, or again / base for the control.

    low, high  the interval at the level at which the series was tested: a change was called only if 1 lies outside
    p          two-sided, of this series alone
    """

    status: Status
    ratio: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Decision:
    """What is known of one series. Relative figures are fractions: 0.02 is 2 %.

    change     head against base; None if it was not measured, as is all that follows
    control    the A/A pair: base against base
    cycles     head against base in cycles of the SM clock: a kernel that changed needs more of them, while a clock that
               changed does not; None where the clock was not measured
    threshold  the change that had to be passed
    visible    the smallest slowdown that this run would have called with probability POWER
    accepted   why a person lets it pass; then it does not count for the run
    """

    series: Series
    status: Status
    reason: str
    matters: float
    rounds: int
    change: Effect | None = None
    control: Effect | None = None
    threshold: float = math.nan
    visible: float = math.nan
    base_seconds: float = math.nan
    head_seconds: float = math.nan
    accepted: str = ""
    cycles: Effect | None = None


def matters(profile: str, benchmark: str) -> float:
    """The declared smallest change that matters, as a fraction."""
    return (MATTERS_END_TO_END if benchmark.startswith(END_TO_END) else MATTERS)[profile]


def key(series: Series) -> Key:
    """What makes two records the same series."""
    return series.benchmark, tuple(sorted(series.params.items()))


def rounds_of(lines: Iterable[Timing], profile: str) -> dict[Key, Rounds]:
    """The whole rounds of each series, of the processes that `by_series` joins and the rounds that `counted` keeps."""
    return {name: _rounds(by_round, profile) for name, by_round in by_series(lines).items()}


def by_series(lines: Iterable[Timing]) -> dict[Key, dict[int, dict[str, Timing]]]:
    """Join sound processes by series, round and side. Of a process that was repeated, the last one counts."""
    found: dict[Key, dict[int, dict[str, Timing]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line.side and sound(line):
            found[key(Series(line.benchmark, line.params))][line.round][line.side] = line
    return found


def sound(line: Timing) -> bool:
    """Whether a record has times, all of them possible, and a clock for each, unless its clock was not measured."""
    clocks = line.clock.sm_mhz if line.clock else [1] * len(line.samples)
    return len(clocks) == len(line.samples) > 0 and all(0 < value < math.inf for value in (*line.samples, *clocks))


def counted(by_round: dict[int, dict[str, Timing]]) -> list[dict[str, Timing]]:
    """The whole rounds of one series by side, in order; without those that ran far below the clock of the others, and
    those in which another process was on the GPU for some sides and not for all.
    """
    every = [line for sides in by_round.values() for line in sides.values()]
    usual = statistics.median([line.clock.usual_mhz for line in every if line.clock] or [0.0])
    return [
        sides
        for _, sides in sorted(by_round.items())
        if len(sides) == 3
        and not any(line.clock and line.clock.usual_mhz < SLOW_CLOCK * usual for line in sides.values())
        and len({shared(line) for line in sides.values()}) == 1
    ]


def shared(line: Timing) -> bool:
    """Whether another process was seen on the GPU while this one measured."""
    return bool(line.clock and line.clock.others)


def _rounds(by_round: dict[int, dict[str, Timing]], profile: str) -> Rounds:
    whole = [[sides[side] for side in ("base", "head", "again")] for sides in counted(by_round)]
    seconds = [_triplet([stats.figure(line.samples, profile) for line in sides]) for sides in whole]
    clocked = all(line.clock for sides in whole for line in sides)
    cycles = [_triplet([_cycles(line, profile) for line in sides]) for sides in whole] if clocked else []
    one = next(line for sides in by_round.values() for line in sides.values())
    return Rounds(Series(one.benchmark, one.params), seconds, len(by_round) - len(whole), cycles)


def _cycles(line: Timing, profile: str) -> float:
    clocks = line.clock.sm_mhz if line.clock else []
    return stats.figure([1e6 * mhz * sample for sample, mhz in zip(line.samples, clocks, strict=True)], profile)


def _triplet(figures: Sequence[float]) -> tuple[float, float, float]:
    base, head, again = figures
    return base, head, again


def _changes(rounds: Sequence[tuple[float, float, float]]) -> list[float]:
    return [math.log(head) - (math.log(base) + math.log(again)) / 2 for base, head, again in rounds]


def decide(measured: Sequence[Rounds], smallest: Sequence[float], alpha: float = FALSE_ALARMS) -> list[Decision]:
    """Judge every series of one run together; smallest[i] is the change of measured[i] that matters, a fraction."""
    changes = _judge([rounds.changes for rounds in measured], smallest, alpha)
    controls = _judge([rounds.controls for rounds in measured], smallest, alpha)
    cycles = _judge([_changes(rounds.cycles) for rounds in measured], smallest, alpha)
    return [
        _decision(rounds, _Pair(change, control, cycle), minimum)
        for rounds, change, control, cycle, minimum in zip(measured, changes, controls, cycles, smallest, strict=True)
    ]


def call(estimate: Estimate, level: float, smallest: float) -> Status:
    """The rule itself, for one estimate at one level."""
    threshold = max(math.log1p(smallest), estimate.margin(level))
    if abs(estimate.mean) > threshold:
        return "regressed" if estimate.mean > 0 else "improved"
    return "pass" if estimate.upper(MISSES) < 1 + smallest else "inconclusive"


def need(rounds: Rounds, smallest: float, among: int) -> float:
    """How far the noise is from letting a change that matters be called: at most 1 when it does, else larger.

    Looks at the control only. `among` is the number of series that are judged together.
    """
    control = stats.paired(rounds.controls)
    if control is None:
        return math.inf
    # A change is head minus a mean of two: its variance is 1.5 of a process, the control's is 2.
    own = replace(control, error=control.error * math.sqrt(0.75))
    return own.margin(FALSE_ALARMS / among) / math.log1p(smallest)


def not_measured(series: Series, smallest: float, failures: Sequence[Failure]) -> Decision:
    """A series without a whole round, and why."""
    reason = "no whole round of it was recorded; run it again, with more time"
    if failures:
        last = failures[-1]
        reason = f"{last.side} at {last.commit[:8]} {_WORDS[last.kind]}: {last.reason}"
    return Decision(series, "not-measured", reason, smallest, 0)


_WORDS = {"absent": "does not have it", "broken": "broke", "timeout": "did not end"}


@dataclass(frozen=True)
class _Judged:
    estimate: Estimate
    level: float
    effect: Effect


def _judge(differences: Sequence[Sequence[float]], smallest: Sequence[float], alpha: float) -> list[_Judged | None]:
    """One family of hypotheses: none of these series changed. None for a series with fewer than two rounds."""
    estimates = [stats.paired(values) for values in differences]
    levels = iter(stats.holm([estimate.p for estimate in estimates if estimate is not None], alpha))
    judged: list[_Judged | None] = []
    for estimate, minimum in zip(estimates, smallest, strict=True):
        if estimate is None:
            judged.append(None)
            continue
        level = next(levels)
        low, high = estimate.interval(level)
        status = call(estimate, level, minimum)
        judged.append(_Judged(estimate, level, Effect(status, estimate.ratio, low, high, estimate.p)))
    return judged


@dataclass(frozen=True)
class _Pair:
    """What was made of one series' rounds: in seconds, of base against base, and in cycles."""

    change: _Judged | None
    control: _Judged | None
    cycles: _Judged | None


def _decision(rounds: Rounds, judged: _Pair, smallest: float) -> Decision:
    n, change, control = len(rounds.seconds), judged.change, judged.control
    if change is None or control is None or n < LEAST:
        reason = f"{n} whole {'round' if n == 1 else 'rounds'}, and nothing is decided before {LEAST}; run it again"
        return Decision(rounds.series, "inconclusive" if n else "not-measured", reason, smallest, n)
    threshold = math.expm1(min(max(math.log1p(smallest), change.estimate.margin(change.level)), 700.0))
    visible = change.estimate.visible(change.level, smallest, POWER)
    status, reason = _explained(change, control, smallest, visible)
    if judged.cycles and status in ("regressed", "improved") and judged.cycles.effect.status != status:
        cycles = words.change(judged.cycles.effect.ratio - 1)
        status, reason = (
            "inconclusive",
            f"{reason}, but {cycles} in cycles: the clock changed, not the kernel; run again",
        )
    if rounds.dropped:
        why = "miss a side, ran at a lower clock, or shared the GPU on some sides"
        reason += f"; {rounds.dropped} rounds {why}, and do not count"
    return Decision(
        rounds.series,
        status,
        reason,
        smallest,
        n,
        change.effect,
        control.effect,
        threshold,
        visible,
        statistics.median(x for base, _, again in rounds.seconds for x in (base, again)),
        statistics.median(head for _, head, _ in rounds.seconds),
        cycles=judged.cycles.effect if judged.cycles else None,
    )


def _explained(change: _Judged, control: _Judged, smallest: float, visible: float) -> tuple[Status, str]:
    effect = change.effect
    moved = f"{words.change(effect.ratio - 1)} ({words.change(effect.low - 1)} to {words.change(effect.high - 1)})"
    if effect.status in ("regressed", "improved"):
        word = "slower" if effect.status == "regressed" else "faster"
        if control.effect.status in ("regressed", "improved"):
            against = f"base against base moved by {words.change(control.effect.ratio - 1)} in the same run"
            return "inconclusive", f"{moved}: {word}, but {against}: the machine; run again"
        return effect.status, f"{moved}: {word}"
    upper = change.estimate.upper(MISSES) - 1
    if effect.status == "pass":
        return "pass", f"{moved}: a slowdown of {smallest:.1%} is excluded (at most {words.change(upper)})"
    told = f"a slowdown of {smallest:.1%} is not excluded"
    return "inconclusive", f"{moved}: {told}; one of {words.change(visible)} would have been called; add rounds"
