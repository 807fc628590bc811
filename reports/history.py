"""Every number that was recorded of a series, in the order of commits, from run records and asv's results.

    results/runs/<id>/timing.jsonl, values.jsonl       the main job
    results/asv-records/<id>/...                       every `asv run`
    results/asv/<machine>/<commit>-*.json              asv's summary: what failed, and times whose records are gone

The process is the unit, so records come first; asv's flat samples count as one process where nothing else is left. A
point is one commit on one occasion: measured twice, a commit has two points, and what they differ by is the machine.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks.harness.records import Run, Series, Timing, Value, read_json, read_lines
from reports import asv_results, stats
from reports.decide import Key, key

FACTS = ("os", "cpu", "cores", "gpu", "driver", "cuda", "python", "torch", "triton", "numpy")
"""What is compared between two environments, and named where it changed."""
VANISHED_DAYS, RETIRED_DAYS = 3, 30
"""Days without a number after which a machine is missed, and after which it is taken to be retired."""


@dataclass(frozen=True)
class Point:
    """One commit on one occasion.

    values   one per process: seconds (stats.figure), or the number that the benchmark returned
    failed   the benchmark broke there: values are empty
    kernels  hash of every compiled kernel; empty where none was recorded
    """

    commit: str
    occasion: str
    fingerprint: str
    protocol: int
    values: list[float]
    failed: bool = False
    tile: str = ""
    kernels: str = ""

    @property
    def center(self) -> float:
        """The mean of the processes; of times and sizes the geometric one. NaN if it failed."""
        if not self.values:
            return math.nan
        if min(self.values) <= 0:
            return statistics.fmean(self.values)
        return math.exp(statistics.fmean(math.log(value) for value in self.values))


@dataclass(frozen=True)
class Line:
    """One series on one piece of hardware; points in the order of commits, then of occasions."""

    series: Series
    unit: str
    profile: str
    hardware: str
    points: list[Point]


@dataclass
class History:
    """All lines. environments: what is known of each fingerprint, by its first 6 digits; damage: what was unreadable;
    elsewhere: points of commits that are not in the history asked for."""

    lines: list[Line] = field(default_factory=list)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    elsewhere: int = 0


@dataclass(frozen=True)
class _Found:
    series: Series
    unit: str
    point: Point


def read(results: Path, order: Mapping[str, int]) -> History:
    """The history of the commits in `order` (full hash -> position). Raises SchemaError for another version."""
    history = History()
    for description in results.glob("asv/*/machine.json"):
        _describe(description, history)
    found = [*_records(results, history)]
    recorded = {(key(one.series), one.point.commit, one.point.fingerprint[:6]) for one in found}
    found += [
        one
        for one in _asv(results / "asv", order, history)
        if (key(one.series), one.point.commit, one.point.fingerprint[:6]) not in recorded
    ]
    lines: dict[tuple[Key, str], list[_Found]] = defaultdict(list)
    for one in found:
        if one.point.commit in order:
            lines[key(one.series), hardware(history.environments.get(one.point.fingerprint[:6], {}))].append(one)
        else:
            history.elsewhere += 1
    for (_, machine), group in sorted(lines.items()):
        points = sorted((one.point for one in group), key=lambda p: (order[p.commit], p.occasion))
        profile = history.environments.get(points[-1].fingerprint[:6], {}).get("profile", "")
        history.lines.append(Line(group[0].series, group[0].unit, profile, machine, points))
    return history


def hardware(facts: Mapping[str, str]) -> str:
    """The machine in words, whatever its software; lines of different machines are never joined."""
    if not facts:
        return "a machine that left no description"
    gpu = facts.get("gpu", "none")
    return f"{gpu if gpu != 'none' else facts.get('cpu', '?')}, {facts.get('cores', '?')} cores"


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What differs between two environments, as `driver 570 to 580, torch 2.10 to 2.11`."""
    both = [name for name in FACTS if name in before and name in after and before[name] != after[name]]
    return ", ".join(f"{name} {before[name]} to {after[name]}" for name in both) or "something that was not recorded"


def vanished(lines: Sequence[Line]) -> list[str]:
    """A sentence for every machine whose newest number is days older than the newest of all."""
    newest: dict[str, datetime] = {}
    for line in lines:
        for point in line.points:
            if (when := _when(point.occasion)) is not None:
                newest[line.hardware] = max(when, newest.get(line.hardware, when))
    last = max(newest.values(), default=None)
    return [
        f"{machine} has measured nothing since {when:%Y-%m-%d}: its series are not measured."
        for machine, when in sorted(newest.items())
        if last is not None and VANISHED_DAYS <= (last - when).days < RETIRED_DAYS
    ]


def _when(occasion: str) -> datetime | None:
    """The time in the name of a run or records folder, or of what asv measured."""
    found = re.search(r"\d{8}T\d{6}Z", occasion)
    try:
        return datetime.strptime(found[0], "%Y%m%dT%H%M%SZ") if found else None
    except ValueError:
        return None


def _records(results: Path, history: History) -> Iterable[_Found]:
    for folder in sorted((*results.glob("runs/*"), *results.glob("asv-records/*"))):
        if folder.parent.name == "runs" and not _counts(folder, history):
            continue
        groups: dict[tuple[Key, str, str, int], list[Timing | Value]] = defaultdict(list)
        for one in _lines(folder, history):
            groups[key(Series(one.benchmark, one.params)), one.commit, one.fingerprint, one.protocol].append(one)
        for (_, commit, fingerprint, protocol), group in groups.items():
            yield _from_records(folder, commit, fingerprint, protocol, group, history)


def _counts(folder: Path, history: History) -> bool:
    """Whether a run is part of the history, taking note of its environment: of a dirty tree it is not."""
    try:
        run = read_json(folder / "run.json", Run)
    except (ValueError, OSError) as error:
        history.damage.append(f"{folder.name}: run.json cannot be read, so its numbers do not count: {error}")
        return False
    facts = {
        name: "none" if value is None else str(value) for name, value in asdict(run.provenance.environment).items()
    }
    history.environments[run.provenance.environment.fingerprint[:6]] = facts
    return run.stored


def _lines(folder: Path, history: History) -> Iterable[Timing | Value]:
    try:
        timings, cut = read_lines(folder / "timing.jsonl", Timing)
        values, more = read_lines(folder / "values.jsonl", Value)
    except OSError as error:
        history.damage.append(f"{folder.name} cannot be read: {error}")
        return []
    if cut + more:
        history.damage.append(f"{folder.name} has {cut + more} unreadable lines")
    return [*timings, *values]


def _from_records(
    folder: Path, commit: str, fingerprint: str, protocol: int, group: list[Timing | Value], history: History
) -> _Found:
    profile = history.environments.get(fingerprint[:6], {}).get("profile", "cpu")
    timings = [one for one in group if isinstance(one, Timing)]
    values = [
        stats.figure(one.samples, profile) for one in timings if one.samples and all(s > 0 for s in one.samples)
    ] + [one.value for one in group if isinstance(one, Value) and math.isfinite(one.value)]
    unit = "seconds" if timings else next(one.unit for one in group if isinstance(one, Value))
    tile, kernels = (timings[0].tile, timings[0].kernels) if timings else ("", "")
    point = Point(commit, folder.name, fingerprint, protocol, values, not values, tile, kernels)
    return _Found(Series(group[0].benchmark, group[0].params), unit, point)


def _asv(folder: Path, order: Mapping[str, int], history: History) -> Iterable[_Found]:
    """asv's own files. The machine's name ends with the first digits of the fingerprint."""
    for number in asv_results.every(folder, set(order), history.damage):
        if number.state == "skipped":
            continue
        profile = number.machine.partition("-")[0]
        if number.unit == "seconds" and number.state == "measured" and not number.samples:
            continue  # a median of all processes is not the figure of any
        values = [] if number.value is None else [number.value]
        values = [stats.figure(number.samples, profile)] if number.samples else values
        occasion = f"asv {number.started:%Y%m%dT%H%M%SZ}" if number.started else "asv"
        fingerprint = number.machine.rpartition("-")[2]
        point = Point(number.commit, occasion, fingerprint, number.protocol, values, number.state == "failed")
        yield _Found(Series(number.benchmark, number.params), number.unit, point)


def _describe(path: Path, history: History) -> None:
    try:
        facts = {name: str(value) for name, value in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError, OSError) as error:
        history.damage.append(f"{path.parent.name}/machine.json cannot be read: {error}")
        return
    name = path.parent.name
    facts |= {"cores": facts.get("num_cpu", "?"), "profile": name.partition("-")[0]}
    known = history.environments.get(name.rpartition("-")[2], {})
    history.environments[name.rpartition("-")[2]] = facts | known
