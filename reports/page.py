"""What the page shows, as plain data: each section is built from records here and laid out by templates/page.html."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.records import Conformance, Difference, Parity, Profile, Series, Value
from reports import plots
from reports.asv_results import Number
from reports.night import Night
from reports.numerics import largest_share, share
from reports.plots import SharePoint, Shelf, TimePoint
from reports.speed import of_this_run
from reports.timing import Comparison, Key, Measured, implementation, key, measured, without_implementation
from reports.verdict import Verdict
from reports.words import mebibytes, number, percent, ratio

NOISY = 0.10
"""Relative standard deviation between processes beyond which a time is marked: the median hides too much."""


@dataclass(frozen=True)
class ParityRow:
    """All cases of one op and place (implementation, dtype and device). worst: largest share of its limit, as text."""

    op: str
    place: str
    n_cases: int
    n_outside: int
    worst: str
    worst_case: str


@dataclass(frozen=True)
class ConformanceRow:
    """One replayed case. nearest: the field that used most of its limit, or the failing ones."""

    record: Conformance
    place: str
    nearest: str


@dataclass(frozen=True)
class TimeCell:
    """One implementation on one row. `one` is None where there is no time, and `why` says why.

    ratio is against the reference where both were measured; compared is the change against the baseline, if any.
    """

    impl: str
    one: Measured | None
    ratio: str
    compared: Comparison | None
    why: str

    @property
    def noisy(self) -> bool:
        """Whether the processes disagree by more than NOISY."""
        return self.one is not None and self.one.spread > NOISY


@dataclass(frozen=True)
class TimeTable:
    """One subject: the module of the suite that measured it.

    rows     label of the shape, and a cell per implementation
    reasons  (implementation, why) for what lies outside the profile
    plot     file name without its theme; empty where only one of several implementations can be timed here
    """

    subject: str
    impls: list[str]
    rows: list[tuple[str, list[TimeCell]]]
    reasons: list[tuple[str, str]]
    plot: str

    @property
    def has_ratios(self) -> bool:
        """Whether anything was measured beside the reference."""
        return any(cell.ratio for _, cells in self.rows for cell in cells)


@dataclass(frozen=True)
class Outside:
    """Series of one benchmark that this machine does not measure, and why."""

    benchmark: str
    reason: str
    listed: list[str]


def parity_rows(records: list[Parity]) -> list[ParityRow]:
    """One row per op, implementation, device and dtype; failing rows first."""
    groups: dict[tuple[str, str], list[Parity]] = defaultdict(list)
    for record in records:
        groups[record.op, _place(record)].append(record)
    rows = []
    for (op, place), group in groups.items():
        top = max(group, key=_rank)
        outside = sum(not record.ok for record in group)
        rows.append(ParityRow(op, place, len(group), outside, percent(largest_share(top)), top.case))
    return sorted(rows, key=lambda row: row.n_outside == 0)


def _place(record: Parity | Conformance) -> str:
    return f"{record.impl}, {record.dtype} on {record.device}"


def shared_place(rows: Sequence[ParityRow | ConformanceRow]) -> str:
    """The one place of all rows, which then needs no column; empty if they differ."""
    places = {row.place for row in rows}
    return places.pop() if len(places) == 1 else ""


def tile_origins(night: Night) -> list[str]:
    """Where the tiles came from: what a tile's description says in brackets at its end, or all of it."""
    tiles = {r.tile for r in night.parity} | {r.tile for r in night.timing}
    return sorted({tile[tile.rfind("(") + 1 : -1] if tile.endswith(")") else tile for tile in tiles - {"", "none"}})


def _rank(record: Parity) -> float:
    found = largest_share(record)
    return math.inf if math.isnan(found) else found


def conformance_rows(records: list[Conformance]) -> list[ConformanceRow]:
    """One row per replayed case, failing ones first."""
    return [ConformanceRow(r, _place(r), _nearest(r.differences)) for r in sorted(records, key=lambda r: r.ok)]


def _nearest(differences: list[Difference]) -> str:
    if failing := [d for d in differences if not d.ok]:
        return f"outside: {', '.join(d.field for d in failing[:4])}" + (" and more" if len(failing) > 4 else "")
    used = [(share(d.worst, d.limit_worst), d.field) for d in differences if d.limit_worst is not None]
    return "nothing was judged" if not used else f"{max(used)[1]}, {percent(max(used)[0])} of its limit"


def parity_choices(records: list[Parity]) -> dict[str, list[str]]:
    """What the comparisons can be filtered by: field -> the values that there are."""
    return {name: sorted({getattr(r, name) for r in records}) for name in ("op", "dtype", "device")}


def parity_plot(records: list[Parity], shelf: Shelf | None) -> str:
    """Every comparison as a dot; a name for plots, or empty. Without a shelf nothing is drawn, here and below."""
    points = [SharePoint(f"{r.op} {r.dtype}", largest_share(r), r.ok) for r in records]
    return plots.shares(points, shelf) if points and shelf else ""


def never_timed(night: Night) -> list[tuple[str, str]]:
    """(implementation, why) of those that this machine cannot time at all: each of their series is outside."""
    if night.profile is None:
        return []
    timed = {implementation(s.params) for s in night.profile.expected} | {
        implementation(t.params) for t in night.timing
    }
    reasons: dict[str, dict[str, None]] = defaultdict(dict)
    for series in night.profile.outside:
        if implementation(series.params) not in timed:
            reasons[implementation(series.params)][series.reason] = None
    return [(impl, "; ".join(why)) for impl, why in sorted(reasons.items()) if impl]


def noise(tables: list[TimeTable]) -> str:
    """A sentence on the times whose processes disagree; empty if they agree."""
    cells = [cell for table in tables for _, row in table.rows for cell in row if cell.one]
    noisy = sum(cell.noisy for cell in cells)
    if noisy == 0:
        return ""
    return (
        f"{noisy} of {len(cells)} times spread by over {percent(NOISY)} between processes, marked ±: read them loosely."
    )


def time_tables(night: Night, verdict: Verdict, shelf: Shelf | None) -> list[TimeTable]:
    """One table per subject, a row per shape, a column per implementation, for every benchmark that gave a time."""
    run = night.run
    found = measured(of_this_run(night.timing, run), run.provenance.environment.profile) if run else {}
    profile = night.profile or Profile([], [])
    outside = {key(s.benchmark, s.params): s.reason for s in profile.outside}
    hidden = {impl for impl, _ in never_timed(night)}
    compared = {key(c.benchmark, c.params): c for c in verdict.comparisons}

    def cell(benchmark: str, rest: dict[str, str], impl: str) -> TimeCell:
        name = key(benchmark, {**rest, "impl": impl} if impl else rest)
        one, reference = found.get(name), found.get(key(benchmark, {**rest, "impl": "reference"}))
        against = ratio(reference.median, one.median) if one and reference and impl != "reference" else ""
        why = "" if one else outside.get(name, "not measured")
        return TimeCell(impl, one, against, compared.get(name), why)

    rows: dict[str, dict[str, tuple[str, dict[str, str]]]] = defaultdict(dict)
    impls: dict[str, set[str]] = defaultdict(set)
    benchmarks = {one.benchmark for one in found.values()}
    everything: list[Measured | Series] = [*found.values(), *profile.expected, *profile.outside]
    for series in everything:
        subject, rest = series.benchmark.split(".")[0], without_implementation(series.params)
        if series.benchmark in benchmarks and implementation(series.params) not in hidden:
            impls[subject].add(implementation(series.params))
            if key(series.benchmark, series.params) not in outside:
                rows[subject][" ".join(rest.values()) or series.benchmark] = series.benchmark, rest
    # What a plot would compare is hidden: a lone dot says no more than its number.
    return [
        _time_table(
            subject,
            [(label, [cell(*where, impl) for impl in _ordered(impls[subject])]) for label, where in shapes.items()],
            None if hidden and len(impls[subject]) == 1 else shelf,
        )
        for subject, shapes in rows.items()
    ]


def _ordered(impls: set[str]) -> list[str]:
    return sorted(impls, key=lambda impl: (impl != "reference", impl))


def _time_table(subject: str, rows: list[tuple[str, list[TimeCell]]], shelf: Shelf | None) -> TimeTable:
    points = [
        TimePoint(label, cell.impl or "time", min(cell.one.figures), cell.one.median, max(cell.one.figures))
        for label, cells in rows
        for cell in cells
        if cell.one
    ]
    reasons = sorted(
        {(cell.impl, cell.why) for _, cells in rows for cell in cells if cell.why != "not measured" and cell.why}
    )
    return TimeTable(
        subject, [cell.impl for cell in rows[0][1]], rows, reasons, plots.times(points, shelf) if shelf else ""
    )


def values(night: Night, numbers: list[Number]) -> list[tuple[str, str, str, str]]:
    """(benchmark, parameters, number, where from) of everything that is not a time; the median over processes."""
    groups: dict[Key, list[Value]] = defaultdict(list)
    for v in of_this_run(night.values, night.run) if night.run else []:
        groups[key(v.benchmark, v.params)].append(v)
    rows = []
    for group in groups.values():
        first, middle = group[0], statistics.median(v.value for v in group)
        source = f"run record of {len(group)} {'process' if len(group) == 1 else 'processes'}"
        rows.append((first.benchmark, " ".join(first.params.values()), _with_unit(middle, first.unit), source))
    for n in numbers:
        if n.value is not None and n.unit != "seconds" and key(n.benchmark, n.params) not in groups:
            rows.append(
                (n.benchmark, " ".join(n.params.values()), _with_unit(n.value, n.unit), "asv, without a run record")
            )
    return sorted(rows)


def _with_unit(value: float, unit: str) -> str:
    return mebibytes(value) if unit == "bytes" and not math.isnan(value) else f"{number(value)} {unit}".strip()


def outside(series: list[Series]) -> list[Outside]:
    """Series outside the profile, by benchmark and reason."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in series:
        groups[one.benchmark, one.reason].append(" ".join(one.params.values()) or "no parameters")
    return [Outside(benchmark, reason, listed) for (benchmark, reason), listed in groups.items()]
