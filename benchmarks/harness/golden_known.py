"""The known-good runs that a case's limits rest on, for the p of a verdict and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.calibrate_files import Population, stored
from benchmarks.harness.calibrate_limits import BASE_FACTOR, Spread, alarms, factor, p_value
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.golden_limits import Kind
from benchmarks.harness.records import KnownGood
from benchmarks.harness.stack import BASE


@dataclass(frozen=True)
class Known:
    """What a record keeps of them, and the scores of all cases' runs."""

    record: KnownGood
    scores: list[float]

    def p(self, score: float) -> float:
        """Share of the runs, the judged one among them, that used at least as much of their limits."""
        return p_value(score, self.scores)


def known_good(case: GoldenCase, kind: Kind, dtype: str) -> Known | None:
    """The runs behind the limits that judge this case; None if they were set by hand, or measured again since.

    Raises ValueError for a file of figures that is none.
    """
    record, basis = case.record_of(kind, dtype), case.basis(kind, dtype)
    if record is None:
        return None
    populations = [one for one in stored(case.folder.parent) if one.stack.name in record.stacks]
    held = {name: digest for name, digest in record.figures.items() if name.endswith(f" {dtype}")}
    if not held or figures_of(case.name, dtype, populations) != held:
        return None
    by_case = pooled(populations, kind, dtype)
    every = [one for found in by_case.values() for one in found]
    chosen = base_factor(populations, kind, dtype) if basis == BASE else None
    by = chosen or factor([ratio for one in every for ratio in one.ratios()])
    runs, prompts = alarms(every, chosen)
    own = [score for one in by_case.get(case.name, []) for score in one.scores(by)]
    scores = [score for one in every for score in one.scores(by)]
    note = f"base limits, {case.stack} was not calibrated in {dtype}" if basis == BASE else ""
    count = len({one.prompt for one in every})
    return Known(KnownGood(basis, len(scores), count, runs, prompts, own, note), scores)


def figures_of(case: str, dtype: str, populations: Sequence[Population]) -> dict[str, str]:
    """ "stack dtype" -> hash of this case's figures."""
    return {
        f"{one.stack.name} {dtype}": one.cases[case][dtype].sha256
        for one in populations
        if dtype in one.cases.get(case, {})
    }


def pooled(populations: Sequence[Population], kind: Kind, dtype: str) -> dict[str, list[Spread]]:
    """Case -> its runs, one entry per stack that has any."""
    found: dict[str, list[Spread]] = {}
    for population in populations:
        for case, by_dtype in population.cases.items():
            if dtype in by_dtype:
                found.setdefault(case, []).append(Spread(by_dtype[dtype].prompt, by_dtype[dtype].good.of(kind)))
    return found


def base_factor(populations: Sequence[Population], kind: Kind, dtype: str) -> float:
    """By what the base exceeds the reach of runs: BASE_FACTOR, or what a stack has measured if that is more."""
    measured = []
    for population in populations:
        ratios = [ratio for own in pooled([population], kind, dtype).values() for one in own for ratio in one.ratios()]
        measured += [factor(ratios)] if ratios else []
    return max(BASE_FACTOR, *measured) if measured else BASE_FACTOR
