"""What the page shows, as plain data: each section is built from records here and laid out by templates/page.html."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.records import Golden, Parity, Series
from reports import pictures, plots
from reports.asv_results import Number
from reports.item import SEVERITY
from reports.night import Night
from reports.numerics import largest_share
from reports.pictures import Picture
from reports.plots import SharePoint, Shelf, TimePoint
from reports.speed import of_this_run
from reports.timing import Comparison, Measured, implementation, key, measured, without_implementation
from reports.verdict import Verdict
from reports.words import mebibytes, number, percent, ratio, seconds

AT_LEAST = ("ssim", "psnr", "cosine", "share_equal")
"""Metrics whose limit is a lower bound, by a part of their name; every other limit is an upper one."""


@dataclass(frozen=True)
class ParityRow:
    """All cases of one op, implementation, device and dtype. worst: largest share of its limit, as text."""

    op: str
    impl: str
    place: str
    tiles: str
    n_cases: int
    n_outside: int
    worst: str
    worst_case: str


@dataclass(frozen=True)
class TimeCell:
    """One implementation on one row. `why` says why there is no time; ratio is against the reference, if both ran."""

    impl: str
    time: str
    detail: str
    ratio: str
    why: str
    change: str
    status: str


@dataclass(frozen=True)
class TimeTable:
    """One subject: the module of the suite that measured it. plot: file name without its theme; empty if no time."""

    subject: str
    impls: list[str]
    rows: list[tuple[str, list[TimeCell]]]
    plot: str


@dataclass(frozen=True)
class Metric:
    """One line of a card: value and limit as text; ok is None for a metric without a limit."""

    name: str
    value: str
    limit: str
    ok: bool | None


@dataclass(frozen=True)
class Card:
    """One judged picture of the gallery."""

    record: Golden
    pictures: list[Picture]
    metrics: list[Metric]


@dataclass(frozen=True)
class Outside:
    """Series of one benchmark that this machine does not measure, and why."""

    benchmark: str
    reason: str
    listed: list[str]


def parity_rows(records: list[Parity]) -> list[ParityRow]:
    """One row per op, implementation, device and dtype; failing rows first."""
    groups: dict[tuple[str, str, str], list[Parity]] = defaultdict(list)
    for record in records:
        groups[record.op, record.impl, f"{record.dtype} on {record.device}"].append(record)
    rows = []
    for (op, impl, place), group in groups.items():
        top = max(group, key=_rank)
        tiles = sorted({record.tile for record in group})
        told = ", ".join(tiles[:3]) + (f" and {len(tiles) - 3} more" if len(tiles) > 3 else "")
        outside = sum(not record.ok for record in group)
        rows.append(ParityRow(op, impl, place, told, len(group), outside, percent(largest_share(top)), top.case))
    return sorted(rows, key=lambda row: row.n_outside == 0)


def _rank(record: Parity) -> float:
    found = largest_share(record)
    return math.inf if math.isnan(found) else found


def parity_plot(records: list[Parity], shelf: Shelf) -> str:
    """Every comparison as a dot; a name for plots, or empty."""
    points = [SharePoint(f"{r.op} {r.dtype}", largest_share(r), r.ok) for r in records]
    return plots.shares(points, shelf) if points else ""


def time_tables(night: Night, verdict: Verdict, shelf: Shelf) -> list[TimeTable]:
    """One table per subject with a row per shape, for every series that was expected or measured."""
    found = measured(of_this_run(night.timing, night.run)) if night.run else {}
    expected = night.profile.expected if night.profile else []
    outside = {key(s.benchmark, s.params): s.reason for s in night.profile.outside} if night.profile else {}
    timed = {one.benchmark for one in found.values()} | {s.benchmark for s in expected if "seconds" in s.benchmark}
    wanted = [(s.benchmark, s.params) for s in expected if s.benchmark in timed]
    wanted += [(one.benchmark, one.params) for one in found.values()]
    compared = {key(c.benchmark, c.params): c for c in verdict.comparisons}
    rows: dict[str, dict[str, tuple[str, dict[str, str]]]] = defaultdict(dict)
    for benchmark, params in wanted:
        subject, rest = benchmark.split(".")[0], without_implementation(params)
        rows[subject][" ".join(rest.values()) or benchmark.split(".")[-1]] = (benchmark, rest)
    impls = _implementations([params for _, params in wanted] + [dict(params) for _, params in outside])
    tables = []
    for subject, labels in rows.items():
        body, points = [], []
        for label, (benchmark, rest) in labels.items():
            cells, reference = [], found.get(key(benchmark, {**rest, "impl": "reference"}))
            for impl in impls:
                name = key(benchmark, {**rest, "impl": impl} if impl else rest)
                one = found.get(name)
                why = "" if one else f"outside: {outside[name]}" if name in outside else "not measured"
                cells.append(_cell(impl, one, reference, compared.get(name), why))
                if one:
                    points.append(TimePoint(label, impl or "time", min(one.medians), one.median, max(one.medians)))
            body.append((label, cells))
        tables.append(TimeTable(subject, impls, body, plots.times(points, shelf) if points else ""))
    return tables


def _implementations(params: list[dict[str, str]]) -> list[str]:
    names = dict.fromkeys(implementation(one) for one in params)
    return sorted(names, key=lambda name: (name != "reference", name))


def _cell(impl: str, one: Measured | None, reference: Measured | None, c: Comparison | None, why: str) -> TimeCell:
    if one is None:
        return TimeCell(impl, "", "", "", why, "", "")
    detail = f"{one.n_samples} samples, {len(one.medians)} {'process' if len(one.medians) == 1 else 'processes'}"
    detail += f", tile {one.tile}" if one.tile not in ("", "none") else ""
    detail += f", {mebibytes(one.peak_memory_bytes)} at peak" if one.peak_memory_bytes is not None else ""
    against = ratio(reference.median, one.median) if reference and impl != "reference" else ""
    change = f"{c.shift:+.1%} (noise up to {c.threshold:.1%})" if c else ""
    return TimeCell(impl, seconds(one.median), detail, against, "", change, c.status if c else "")


def values(night: Night, numbers: list[Number]) -> list[tuple[str, str, str, str]]:
    """(benchmark, parameters, number, where from) of everything that is not a time."""
    valid = of_this_run(night.values, night.run) if night.run else []
    rows = [(v.benchmark, " ".join(v.params.values()), _with_unit(v.value, v.unit), "run record") for v in valid]
    seen = {key(v.benchmark, v.params) for v in valid}
    for n in numbers:
        if n.value is not None and n.unit != "seconds" and key(n.benchmark, n.params) not in seen:
            rows.append((n.benchmark, " ".join(n.params.values()), _with_unit(n.value, n.unit), "asv"))
    return sorted(rows)


def _with_unit(value: float, unit: str) -> str:
    return mebibytes(value) if unit == "bytes" and not math.isnan(value) else f"{number(value)} {unit}".strip()


def cards(night: Night, site: Path) -> list[Card]:
    """The gallery, failures first, then by case; pictures are copied into `site`."""
    found = [
        Card(
            record,
            [
                pictures.copy(night.folder, name, record.pictures.get(name), site)
                for name in ("expected", "actual", "difference")
            ],
            _metrics(record),
        )
        for record in night.golden
    ]
    return sorted(found, key=lambda card: (-SEVERITY.index(card.record.status), card.record.case))


def _metrics(record: Golden) -> list[Metric]:
    names = [*record.limits, *(name for name in record.metrics if name not in record.limits)]
    return [_metric(name, record) for name in names]


def _metric(name: str, record: Golden) -> Metric:
    value, limit = record.metrics.get(name, math.nan), record.limits.get(name)
    text = "∞ (identical)" if math.isnan(value) and record.identical else number(value)
    if limit is None:
        return Metric(name, text, "", None)
    lower = any(part in name.lower() for part in AT_LEAST)
    ok = (value >= limit if lower else value <= limit) or (math.isnan(value) and record.identical)
    return Metric(name, text, f"{'≥' if lower else '≤'} {number(limit)}", ok)


def outside(series: list[Series]) -> list[Outside]:
    """Series outside the profile, by benchmark and reason."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in series:
        groups[one.benchmark, one.reason].append(" ".join(one.params.values()) or "no parameters")
    return [Outside(benchmark, reason, listed) for (benchmark, reason), listed in groups.items()]
