"""How often would the rule be wrong? Runs without a change, and with one of known size, judged as a gate judges them.

Noise is either recorded, resampled from the rounds of a comparison of a commit with itself (whole rounds, so that what
the machine did to all sides of a round stays together; who was base, head and again is drawn anew), or synthetic. A
slowdown is head's samples multiplied: it tests the decision, not the clock. Beside it stands asv's own comparison
(its significance test, unchanged, and its factor) of the same samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.harness.records import Series, Status, Timing, read_lines
from reports import decide, joint
from reports.decide import Rounds
from reports.stats import figure

SLOWDOWNS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.10)
TRIALS_NONE = 2000
"""Runs without a change: enough to see a false alarm rate of 0.5 %."""
TRIALS = 400
ASV_TRIALS = 100
"""asv's test takes a second for a run where ours takes milliseconds."""
ASV_FACTORS = (1.1, 1.05)
"""`asv continuous` calls what is beyond the first unless told otherwise; the second is asv's for its pages. A third is
1 + the smallest change that matters: what one would write to see what the gate sees."""
SEED = 20261124
SYNTHETIC_SERIES, SYNTHETIC_ROUNDS, SYNTHETIC_SAMPLES = 10, 4000, 10

Process = list[float]
Triplet = tuple[Process, Process, Process]


@dataclass(frozen=True)
class Noise:
    """Rounds in which nothing changed: rounds[series][i] is three processes' samples. Round i is the same for all."""

    name: str
    series: list[Series]
    rounds: list[list[Triplet]]
    smallest: list[float]
    profile: str

    @property
    def factors(self) -> tuple[float, ...]:
        """What asv is given as its factor."""
        return (*ASV_FACTORS, 1 + min(self.smallest))

    @property
    def spread(self) -> list[float]:
        """Per series, the relative standard deviation of a process within its round."""
        found = []
        for triplets in self.rounds:
            logs = np.log([[figure(process, self.profile) for process in triplet] for triplet in triplets])
            found.append(float(np.sqrt(logs.var(axis=1, ddof=1).mean())))
        return found


@dataclass(frozen=True)
class Rate:
    """So many of so many trials, with the exact 95 % interval of the probability (Clopper and Pearson)."""

    hits: int
    trials: int

    @property
    def interval(self) -> tuple[float, float]:
        """Of the probability; all of it where nothing was tried."""
        if not self.trials:
            return 0.0, 1.0
        found = stats.binomtest(self.hits, self.trials).proportion_ci(0.95)
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits / self.trials:.1%} ({low:.1%} to {high:.1%})" if self.trials else "not tried"


@dataclass(frozen=True)
class Outcome:
    """What became of runs in which one series got slower: how often it was found. Of runs without a change: how often
    anything at all was called. open: of all series of these runs, how many stayed inconclusive. asv: as gate, for each
    of the noise's factors, on the first of the same runs.
    """

    gate: Rate
    open: Rate
    asv: list[Rate]


def recorded(folder: Path) -> Noise:
    """The noise of a comparison of a commit with itself. Raises ValueError if it is another, or too short."""
    asked = joint.asked_of(folder)
    if asked.base != asked.head:
        raise ValueError(f"{folder} compares {asked.base[:8]} with {asked.head[:8]}; noise is a commit against itself")
    lines, _ = read_lines(folder / "timing.jsonl", Timing)
    found: dict[decide.Key, dict[int, dict[str, Process]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        found[decide.key(Series(line.benchmark, line.params))][line.round][line.side] = line.samples
    names = [decide.key(series) for series in asked.series]
    whole = [
        number
        for number in sorted(set.intersection(*(set(found[name]) for name in names)))
        if all(len(found[name][number]) == 3 for name in names)
    ]
    if 3 * len(whole) < 30:
        raise ValueError(f"{folder} has {3 * len(whole)} processes per series in whole rounds; at least 30 are needed")
    rounds = [[_triplet(found[name][number]) for number in whole] for name in names]
    return Noise(
        f"recorded, {3 * len(whole)} processes per series",
        asked.series,
        rounds,
        asked.smallest,
        asked.environment.profile,
    )


def synthetic(name: str, rng: np.random.Generator, between: float, smallest: float) -> Noise:
    """Made-up noise of SYNTHETIC_SERIES series: `between` processes, and a third of it inside each.

    gaussian; drift: a machine that wanders by 5 % between rounds; bimodal: every fifth process 5 times `between`
    slower; tails: Student's t with 3 degrees of freedom.
    """
    shape = (SYNTHETIC_SERIES, SYNTHETIC_ROUNDS, 3)
    level = between * (rng.standard_t(3, shape) if name == "tails" else rng.standard_normal(shape))
    if name == "drift":
        level = level + 0.05 * rng.standard_normal((1, SYNTHETIC_ROUNDS, 1))
    elif name == "bimodal":
        level = level + 5 * between * (rng.random(shape) < 0.2)
    inside = between / 3 * rng.standard_normal((*shape, SYNTHETIC_SAMPLES))
    samples = np.exp(level[..., None] + inside)
    series = [Series("synthetic", {"number": str(i)}) for i in range(SYNTHETIC_SERIES)]
    return Noise(f"{name}, {between:.1%} between processes", series, samples.tolist(), [smallest] * len(series), "gpu")


def outcome(
    noise: Noise, slowdown: float, rounds: int, rng: np.random.Generator, trials: int, asv_trials: int
) -> Outcome:
    """Judge `trials` runs in which one series, drawn each time, got slower by `slowdown`, or none did."""
    hits, undecided, asv_hits = 0, 0, [0] * len(noise.factors)
    for trial in range(trials):
        run = _draw(noise, rounds, rng)
        target = int(rng.integers(len(run)))
        if slowdown:
            run[target] = [(base, [s * (1 + slowdown) for s in head], again) for base, head, again in run[target]]
        said = _decided(noise, run)
        hits += said[target] == "regressed" if slowdown else any(one in ("regressed", "improved") for one in said)
        undecided += said.count("inconclusive")
        if trial < asv_trials:
            ratios = [_asv_ratio(triplets) for triplets in ([run[target]] if slowdown else run)]
            for i, factor in enumerate(noise.factors):
                asv_hits[i] += any(ratio > factor or (not slowdown and ratio < 1 / factor) for ratio in ratios)
    asv = [Rate(found, min(trials, asv_trials)) for found in asv_hits]
    return Outcome(Rate(hits, trials), Rate(undecided, trials * len(noise.series)), asv)


def report(records: Path | None, rounds: int, smallest: float | None) -> str:
    """The self-test's tables as Markdown: on recorded noise if there is a folder, else on four synthetic kinds.

    Raises ValueError for records that are no noise.
    """
    rng = np.random.default_rng(SEED)
    if records is not None:
        noise = recorded(records)
        least = [smallest] * len(noise.series) if smallest else noise.smallest
        noises = [replace(noise, smallest=least)]
    else:
        kinds = ("gaussian", "drift", "bimodal", "tails")
        noises = [synthetic(kind, rng, 0.003, smallest or decide.MATTERS["gpu"]) for kind in kinds]
    return "\n\n".join(_table(noise, rounds, rng) for noise in noises)


def _table(noise: Noise, rounds: int, rng: np.random.Generator) -> str:
    spreads = ", ".join(f"{spread:.1%}" for spread in sorted(noise.spread))
    head = [
        "one series slower by",
        "gate",
        "series left inconclusive",
        *(f"asv, factor {factor:g}" for factor in noise.factors),
    ]
    lines = [
        f"**Noise: {noise.name}.** {len(noise.series)} series x {rounds} rounds x 3 processes a run; spread of a "
        f"process within its round, series by series: {spreads}; smallest change that matters: "
        f"{min(noise.smallest):.1%}; {TRIALS_NONE} runs without a change, {TRIALS} with one ({ASV_TRIALS} for asv).",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for slowdown in SLOWDOWNS:
        got = outcome(noise, slowdown, rounds, rng, TRIALS if slowdown else TRIALS_NONE, ASV_TRIALS)
        label = f"{slowdown:.0%}: found" if slowdown else "nothing: runs with a false alarm"
        lines.append(
            f"| {label} | {' | '.join(map(str, [got.gate, f'{got.open.hits / got.open.trials:.1%}', *got.asv]))} |"
        )
    return "\n".join(lines)


def _triplet(sides: dict[str, Process]) -> Triplet:
    return sides["base"], sides["head"], sides["again"]


def _draw(noise: Noise, n: int, rng: np.random.Generator) -> list[list[Triplet]]:
    """A run of n rounds, with replacement; who is who is drawn per round and series."""
    chosen = rng.integers(len(noise.rounds[0]), size=n)
    run = []
    for triplets in noise.rounds:
        roles = [rng.permutation(3).tolist() for _ in chosen]
        run.append(
            [(triplets[i][a], triplets[i][b], triplets[i][c]) for i, (a, b, c) in zip(chosen, roles, strict=True)]
        )
    return run


def _figures(triplet: Triplet, profile: str) -> tuple[float, float, float]:
    base, head, again = triplet
    return figure(base, profile), figure(head, profile), figure(again, profile)


def _decided(noise: Noise, run: Sequence[Sequence[Triplet]]) -> list[Status]:
    whole = [
        Rounds(one, [_figures(triplet, noise.profile) for triplet in triplets])
        for one, triplets in zip(noise.series, run, strict=True)
    ]
    return [one.status for one in decide.decide(whole, noise.smallest)]


def _asv_ratio(triplets: Sequence[Triplet]) -> float:
    """What asv makes of the same samples: head / base, or 1 if its test sees no difference.

    asv pools all processes of a commit, so base has twice as many; its factor is compared with the ratio of medians.
    """
    from asv._stats import is_different
    from asv_runner.statistics import compute_stats

    old = [sample for base, _, again in triplets for process in (base, again) for sample in process]
    new = [sample for _, head, _ in triplets for sample in head]
    (a, a_stats), (b, b_stats) = compute_stats(old, 1), compute_stats(new, 1)
    return float(b / a) if is_different(old, new, a_stats, b_stats) else 1.0
