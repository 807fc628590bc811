"""How often would the trend be wrong? Histories without a step and with one, judged night by night, beside others.

A history is drawn from a table of rounds: each row holds the log figures of three processes that ran one after the
other, which is what one commit gets. Rows come in blocks of consecutive ones, so that a machine that was slow for a
while is slow for a while. Every detector sees the history grow by one commit a night; whatever it reports on any night
counts, because on that night a person would have been called.

Beside ours: asv's (what `asv publish` lists), and Apache Otava's E-divisive one where `otava` can be imported (`pip
install --no-deps apache-otava==0.8.0`: its own requirements pin another numpy, so it is no dependency of ours).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from reports import beside, decide, simulate, stats, steps
from reports.stats import figure
from reports.steps import Step

SEED = 20261124
STEPS = (0.03, 0.05, 0.10)
PAST, WITHIN = 30, 3
"""Commits before a step, and commits, its own among them, within which it is to be found."""
NEAR = 2
"""Commits within which two steps are the same."""
LENGTH = 100
"""Commits of a history without a step."""
NONE_TRIALS, SLOW_TRIALS, TRIALS = 600, 50, 200
"""Histories without a step: for ours, and for the others, which take 50 times as long; histories with one."""
BLOCK = 4
CONFIRMING_ROUNDS = 24
TOGETHER = (2, 4)
"""Rounds of three processes that a commit may get, beside one."""

Floats = NDArray[np.float64]
Detector = Callable[["Nights", int, float], list[tuple[int, int]]]
"""What it reports of a history: (night, first commit of the step), both as indices. It is also told which series it is,
and how large the step after PAST commits is (0.0: none), for paired rounds to be drawn from."""


@dataclass(frozen=True)
class Nights:
    """The log figures of one series, and how far the median of the others lay from theirs on the same nights; None
    where there are too few.
    """

    values: Floats
    others: Floats | None = None


@dataclass(frozen=True)
class Table:
    """Rounds of one kind of noise: rounds[series] is [n, 3], logarithms; smallest: the change that matters."""

    name: str
    rounds: list[Floats]
    smallest: float

    def history(self, series: int, n: int, rng: np.random.Generator, together: int = 1) -> Nights:
        """n commits, the mean of three processes of each of `together` rounds: on the same nights for every series."""
        rows = self._numbers(len(self.rounds[series]), n * together, rng)
        figures = np.stack([one[rows].reshape(n, -1).mean(axis=1) for one in self.rounds])
        others = np.delete(figures - figures.mean(axis=1, keepdims=True), series, axis=0)
        return Nights(figures[series], np.median(others, axis=0) if len(others) >= beside.LEAST else None)

    def changes(self, series: int, shift: float, rng: np.random.Generator) -> Floats:
        """What paired rounds across a step of `shift` say: head minus the mean of base and again, per round."""
        sides = rng.permuted(self._rows(series, CONFIRMING_ROUNDS, rng), axis=1)
        return np.asarray(sides[:, 0] + shift - sides[:, 1:].mean(axis=1), dtype=np.float64)

    def _rows(self, series: int, n: int, rng: np.random.Generator) -> Floats:
        rounds = self.rounds[series]
        return np.asarray(rounds[self._numbers(len(rounds), n, rng)], dtype=np.float64)

    @staticmethod
    def _numbers(length: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        starts = rng.integers(length, size=math.ceil(n / BLOCK))
        return np.asarray((starts[:, None] + np.arange(BLOCK)).ravel()[:n] % length, dtype=np.int64)


def recorded(folder: Path) -> Table:
    """The noise of a comparison of a commit with itself. Raises ValueError if it is another, or too short."""
    noise = simulate.recorded(folder)
    rounds = [
        np.log([[figure(process, noise.profile) for process in triplet] for triplet in triplets])
        for triplets in noise.rounds
    ]
    centred = [table - table.mean() for table in rounds]
    return Table(f"{noise.name}, {len(rounds)} series", centred, max(noise.smallest))


def synthetic(rng: np.random.Generator) -> list[Table]:
    """Four made-up kinds. Each row's own level is what sets one night apart from another."""
    shape = (4000, 3)

    def process(spread: float) -> Floats:
        return spread * rng.standard_normal(shape)

    nights = rng.standard_normal((shape[0], 1))
    speeds = rng.random(shape) < 0.2
    tails = rng.standard_t(3, shape) / math.sqrt(3)
    return [
        Table("gaussian, 1% between commits", [0.01 * nights + np.zeros(shape)], 0.015),
        Table(
            "bimodal, every fifth process 3% slower, else 1% between processes", [process(0.01) + 0.03 * speeds], 0.015
        ),
        Table("heavy tails, Student's t with 3 degrees, 1% between processes", [0.01 * tails], 0.015),
        Table("a GPU's, 0.3% between processes, every fifth 1.5% slower", [process(0.003) + 0.015 * speeds], 0.005),
    ]


def report(folder: Path | None) -> str:
    """A table per kind of noise, as Markdown. Raises ValueError for records that are no noise."""
    rng = np.random.default_rng(SEED)
    return "\n\n".join(_table(table, rng) for table in ([recorded(folder)] if folder else synthetic(rng)))


def alarms(
    table: Table, detector: Detector, histories: int, rng: np.random.Generator, together: int = 1
) -> tuple[int, int]:
    """(false change points, commits) of histories in which nothing happened."""
    found = 0
    for trial in range(histories):
        series = trial % len(table.rounds)
        seen: list[int] = []
        for _, at in detector(table.history(series, LENGTH, rng, together), series, 0.0):
            # A step that wanders by a commit or two as data comes in is still the same.
            if all(abs(at - old) > NEAR for old in seen):
                seen.append(at)
        found += len(seen)
    return found, histories * LENGTH


def power(
    table: Table, detector: Detector, size: float, trials: int, rng: np.random.Generator, together: int = 1
) -> simulate.Rate:
    """How often a step after PAST commits is seen on one of the first WITHIN nights."""
    hits = 0
    for trial in range(trials):
        series = trial % len(table.rounds)
        nights = table.history(series, PAST + WITHIN, rng, together)
        nights.values[PAST:] += math.log1p(size)
        reports = detector(nights, series, size)
        hits += any(at >= PAST - NEAR and night >= PAST for night, at in reports)
    return simulate.Rate(hits, trials)


def ours(table: Table) -> Detector:
    """`motbench trend` without a comparison: what is certain."""
    return lambda nights, series, size: [
        (step.seen, step.at) for step in steps.steps(nights.values.tolist(), table.smallest)
    ]


def worth_a_look(nights: Nights, smallest: float) -> list[Step]:
    """Steps and suspicions of every night, by the series' own numbers and then beside the others."""
    both = [nights.values] + ([] if nights.others is None else [nights.values - nights.others])
    return [step for values in both for step in steps.scan(values.tolist(), smallest)]


def confirming(table: Table, rng: np.random.Generator) -> Detector:
    """`motbench trend --confirm`: paired rounds decide every step and every suspicion, once."""

    def detector(nights: Nights, series: int, size: float) -> list[tuple[int, int]]:
        asked: dict[int, Step] = {}
        for step in worth_a_look(nights, table.smallest):
            if all(abs(step.at - at) > NEAR for at in asked):
                asked[step.at] = step
        return [(step.seen, at) for at, step in asked.items() if holds(series, size, step)]

    def holds(series: int, size: float, step: Step) -> bool:
        truth = math.log1p(size) if step.at >= PAST - NEAR else 0.0
        estimate = stats.paired(table.changes(series, truth, rng).tolist())
        said = estimate and decide.call(estimate, decide.FALSE_ALARMS, table.smallest)
        return said == ("regressed" if step.shift > 0 else "improved")

    return detector


def suspecting(table: Table) -> Detector:
    """What --confirm would measure."""
    return lambda nights, series, size: [(step.seen, step.at) for step in worth_a_look(nights, table.smallest)]


def nightly(look: Callable[[Floats], set[int]]) -> Detector:
    """A detector that is asked anew every night: all of a history without a step, the last nights of one with it."""

    def detector(nights: Nights, series: int, size: float) -> list[tuple[int, int]]:
        values = nights.values
        first = PAST + 1 if size else steps.LEAST + steps.AFTER
        return [(night - 1, at) for night in range(first, len(values) + 1) for at in sorted(look(values[:night]))]

    return detector


def asv(threshold: float) -> Detector:
    """What `asv publish` lists at this threshold: slowdowns only."""
    from asv.step_detect import detect_regressions, detect_steps

    def look(values: Floats) -> set[int]:
        _, _, positions = detect_regressions(detect_steps(np.exp(values).tolist()), threshold)
        return {int(after) for _, after, *_ in positions or []}

    return nightly(look)


def otava(least: float) -> Detector | None:
    """Apache Otava's E-divisive detector at its own settings, steps below `least` left out; None if it is not here."""
    try:
        detect = importlib.import_module("otava.analysis").compute_change_points
    except ImportError:
        return None
    return nightly(
        lambda values: {int(point.index) for point in detect(np.exp(values).tolist(), min_magnitude=least)[0]}
    )


def _table(table: Table, rng: np.random.Generator) -> str:
    spreads = ", ".join(f"{rounds.mean(axis=1).std(ddof=1):.1%}" for rounds in table.rounds)
    confirm = "`motbench trend --confirm`"
    detectors: list[tuple[str, Detector | None, int, int]] = [
        ("`motbench trend`", ours(table), NONE_TRIALS, 1),
        (confirm, confirming(table, rng), NONE_TRIALS, 1),
        *((f"{confirm}, {3 * n} processes per commit", confirming(table, rng), NONE_TRIALS, n) for n in TOGETHER),
        ("asv, threshold 5% (its default)", asv(0.05), SLOW_TRIALS, 1),
        (f"asv, threshold {table.smallest:.1%}", asv(table.smallest), SLOW_TRIALS, 1),
        ("Otava (E-divisive), its defaults", otava(0.0), SLOW_TRIALS, 1),
        (f"Otava, steps from {table.smallest:.1%}", otava(table.smallest), SLOW_TRIALS, 1),
    ]
    head = [
        "detector",
        "false change points per 1,000 commits",
        *(f"{s:.0%} step found within {WITHIN}" for s in STEPS),
    ]
    lines = [
        f"**Noise: {table.name}.** Standard deviation of a commit's figure, series by series: {spreads}; smallest "
        f"change that matters: {table.smallest:.1%}; blocks of {BLOCK} rounds; {TRIALS} histories with a step after "
        f"{PAST} commits; without one {NONE_TRIALS} of {LENGTH} commits for ours, {SLOW_TRIALS} for the others.",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for name, detector, histories, together in detectors:
        if detector is None:
            cells = ["not measured: `otava` is not installed", *("" for _ in STEPS)]
        else:
            cells = [_per_thousand(*alarms(table, detector, histories, rng, together))]
            cells += [str(power(table, detector, size, TRIALS, rng, together)) for size in STEPS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    asked, commits = alarms(table, suspecting(table), NONE_TRIALS, rng)
    cost = (
        f"`--confirm` would measure {_per_thousand(asked, commits)} times per 1,000 commits in which nothing happened."
    )
    return "\n".join([*lines, "", cost])


def _per_thousand(found: int, commits: int) -> str:
    """A rate with its exact 95 % interval (Poisson, from the chi-squared distribution)."""
    low = scipy_stats.chi2.ppf(0.025, 2 * found) / 2 if found else 0.0
    high = scipy_stats.chi2.ppf(0.975, 2 * found + 2) / 2
    per = 1000 / commits
    return f"{found * per:.2g} ({low * per:.2g} to {high * per:.2g})"
