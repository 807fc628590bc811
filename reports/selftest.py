"""What the golden gate is known to see and to cry wolf at, as tables: its calibration and its own test."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.harness.records import TIERS, Detection, Golden, KnownGood, Rate, Selftest
from reports.words import percent


@dataclass(frozen=True)
class Basis:
    """What the limits of some judgements rest on; `known` is None for limits that were set by hand."""

    cases: list[str]
    against: str
    dtype: str
    known: KnownGood | None


@dataclass(frozen=True)
class Row:
    """One class of faults, or of good runs, as text. cells: what each tier saw; alone: each metric and gate alone."""

    one: Detection
    seen: str
    cells: list[tuple[str, bool]]
    alone: list[str]
    missed: bool


@dataclass(frozen=True)
class Table:
    """The detection table. metrics and gates name the columns of Row.alone."""

    tested: Selftest
    tiers: tuple[str, ...]
    metrics: list[str]
    gates: list[str]
    faults: list[Row]
    good: list[Row]


def bases(records: list[Golden]) -> list[Basis]:
    """One per population and kind of judgement: cases that share everything else stand together."""
    found: dict[tuple[str, str, str], Basis] = {}
    for record in records:
        known = record.known_good
        told = "" if known is None else f"{known.stack} {known.runs} {known.alarms} {known.by_prompt} {known.note}"
        one = found.setdefault((record.against, record.dtype, told), Basis([], record.against, record.dtype, known))
        if record.case not in one.cases:
            one.cases.append(record.case)
    return list(found.values())


def table(tested: Selftest | None) -> Table | None:
    """The table of one self-test; None if there was none."""
    if tested is None:
        return None
    every = [*tested.faults, *tested.good, tested.alarms]
    metrics = list(dict.fromkeys(name for one in every for name in one.metrics))
    gates = list(dict.fromkeys(name for one in every for name in one.gates))
    return Table(
        tested,
        TIERS,
        metrics,
        gates,
        [_row(one, metrics, gates) for one in tested.faults],
        [_row(one, metrics, gates) for one in [*tested.good, tested.alarms]],
    )


def rate(found: Rate | None) -> str:
    """`5 of 6`; nothing where there were no runs."""
    return "" if found is None or found.runs == 0 else f"{found.seen} of {found.runs}"


def at_most(found: Rate) -> str:
    """The upper bound of a rate that should be small."""
    return "" if math.isnan(found.high) else f"at most {percent(found.high)}"


def at_least(found: Rate) -> str:
    """The lower bound of a rate that should be large."""
    return "" if math.isnan(found.low) else f"at least {percent(found.low)}"


def _row(one: Detection, metrics: list[str], gates: list[str]) -> Row:
    bound = at_least(one.seen) if one.tier else at_most(one.seen)
    seen = f"{rate(one.seen)} ({bound})" if rate(one.seen) and bound else rate(one.seen) or "not measured"
    cells = [(rate(one.tiers.get(tier)), tier == one.tier) for tier in TIERS]
    alone = [rate(one.metrics.get(name)) for name in metrics] + [rate(one.gates.get(name)) for name in gates]
    return Row(one, seen, cells, alone, bool(one.wrong))
