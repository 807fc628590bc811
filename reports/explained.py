"""Which ops made a whole picture slower or faster: a table that adds up, with what is left unexplained.

Every process that times a picture then makes it again with ops that look at the clock (harness/op_seconds.py). A row is
one op; its change is the mean over the rounds of head minus the mean of base and again, as for the picture itself. The
last row is what the ops do not account for: the rest of the model, launches, Python, and noise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.records import Series, Stages, Timing, read_lines
from reports import decide, stats, words

LEAST = 2
UNEXPLAINED = "everything else"


@dataclass(frozen=True)
class Part:
    """Seconds of a picture that belong to one op, and the change with its standard error."""

    name: str
    base: float
    head: float
    change: float
    error: float


@dataclass(frozen=True)
class Explained:
    """One whole picture. parts: largest change first, what is unexplained last; their changes add up to the whole's."""

    series: Series
    whole: Part
    parts: list[Part]


Process = tuple[float, dict[str, float]]
"""Seconds of the picture, and of its ops."""


def read(folder: Path, timing: Sequence[Timing], profile: str) -> tuple[list[Explained], list[str]]:
    """Every picture whose ops were recorded in at least LEAST of the rounds that its verdict counts; and what is left
    out, a line each.
    """
    records, broken = read_lines(folder / "ops.jsonl", Stages)
    damage = [f"ops.jsonl has {broken} unreadable {'line' if broken == 1 else 'lines'}"] if broken else []
    ops = {_process(one): one.seconds for one in records if all(map(math.isfinite, one.seconds.values()))}
    made = []
    for by_round in decide.by_series(timing).values():
        counted = decide.counted(by_round)
        # An op that is missing was not called and took no time; where all are missing, they were not measured.
        if not any(ops.get(_process(line)) for sides in counted for line in sides.values()):
            continue
        whole = [sides for sides in counted if all(ops.get(_process(line)) for line in sides.values())]
        series = Series(counted[0]["base"].benchmark, counted[0]["base"].params)
        if len(whole) < len(counted):
            less = f"{len(counted) - len(whole)} of {len(counted)} rounds"
            damage.append(f"{series.label}: {less} miss the ops of a process and are not in the table by op")
        if len(whole) >= LEAST:
            rounds = [
                {side: (stats.figure(line.samples, profile), ops[_process(line)]) for side, line in sides.items()}
                for sides in whole
            ]
            made.append(_explained(series, rounds))
    return made, damage


def lines(explained: Explained) -> list[str]:
    """The table as text, in milliseconds."""
    rows = [("op", "base", "head", "change", "of the picture")]
    for part in (*explained.parts, explained.whole):
        share = words.change(part.change / explained.whole.base)
        change = f"{1e3 * part.change:+.3f} ± {1e3 * part.error:.3f}"
        rows.append((part.name, f"{1e3 * part.base:.3f}", f"{1e3 * part.head:.3f}", change, share))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"{explained.series.label}, milliseconds (± one standard error):", *(f"  {line}" for line in table)]


def _process(line: Timing | Stages) -> tuple[decide.Key, str, int, int]:
    return decide.key(Series(line.benchmark, line.params)), line.commit, line.round, line.pid


def _explained(series: Series, rounds: Sequence[dict[str, Process]]) -> Explained:
    names = sorted({name for sides in rounds for _, ops in sides.values() for name in ops})
    parts = [_part(name, [_of(sides, name) for sides in rounds]) for name in names]
    parts.sort(key=lambda part: -abs(part.change))
    rest = [{side: whole - sum(ops.values()) for side, (whole, ops) in sides.items()} for sides in rounds]
    whole = _part("the whole picture", [{side: seconds for side, (seconds, _) in sides.items()} for sides in rounds])
    return Explained(series, whole, [*parts, _part(UNEXPLAINED, rest)])


def _of(sides: dict[str, Process], name: str) -> dict[str, float]:
    return {side: ops.get(name, 0.0) for side, (_, ops) in sides.items()}


def _part(name: str, rounds: Sequence[dict[str, float]]) -> Part:
    """Means, not medians: means of parts add up to the mean of the whole."""
    bases = [(sides["base"] + sides["again"]) / 2 for sides in rounds]
    heads = [sides["head"] for sides in rounds]
    changes = [head - base for head, base in zip(heads, bases, strict=True)]
    error = statistics.stdev(changes) / math.sqrt(len(changes))
    return Part(name, statistics.fmean(bases), statistics.fmean(heads), statistics.fmean(changes), error)
