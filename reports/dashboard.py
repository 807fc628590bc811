"""The trends page as data: every series with its confidence band, its steps and where the environment changed.

A point is one commit on one occasion (reports/history.py). Its band is the 95 % interval of Student's t around the mean
of its processes' logarithms, with the noise between processes pooled over the era, the points that share environment
and protocol. An era in which no commit had two processes has no band.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from scipy import special

from benchmarks.harness.records import SchemaError, Series, read_json
from reports import trend, words
from reports.history import Point
from reports.timing import implementation
from reports.trend import Drawn, Event, Trend

LEVEL = 0.95
WORKS = ("layer", "kind", "task")
"""Parameters that say what is computed; with the benchmark's module they name the op."""
DTYPES = {"cpu": "float32", "gpu": "bfloat16"}
"""What the suite measures in, by profile, where a series does not say it itself (docs/measuring.md)."""


@dataclass(frozen=True)
class Place:
    """What a series can be filtered by. op is the benchmark's module with what it computes, such as `linear qkv`."""

    machine: str
    op: str
    dtype: str
    shape: str
    impl: str


@dataclass(frozen=True)
class Change:
    """One event as text. view: the address of its series on the trends page."""

    event: Event
    place: Place
    by: str
    since: str
    view: str


def read(results: Path) -> tuple[Trend | None, str]:
    """What `motbench trend` judged last, or None and why there is nothing. Raises SchemaError for another version."""
    path = results / trend.FILE
    if not path.exists():
        return None, "no history has been judged; type: motbench trend"
    try:
        return read_json(path, Trend), ""
    except SchemaError:
        raise
    except (ValueError, OSError) as error:
        return None, str(error)


def place(series: Series, profile: str, hardware: str) -> Place:
    """Where a series belongs."""
    work = [series.params[name] for name in WORKS if name in series.params]
    op = " ".join([series.benchmark.split(".")[0], *work])
    dtype = series.params.get("dtype", DTYPES.get(profile, "not recorded"))
    shape = " ".join(series.params[name] for name in ("shape", "cache") if name in series.params) or "whole picture"
    return Place(hardware, op, dtype, shape, implementation(series.params) or "only one")


def view(series: Series, hardware: str) -> str:
    """The name of the plot that holds a series: all implementations of one benchmark on one machine."""
    rest = [value for name, value in series.params.items() if name != "impl"]
    return " ".join([series.benchmark, *rest, "on", hardware])


def changes(found: Trend) -> list[Change]:
    """Every event, in the trend's order: those that stand first."""
    profiles = {(drawn.line.series.label, drawn.line.hardware): drawn.line.profile for drawn in found.lines}
    return [
        Change(
            event,
            place(event.series, profiles.get((event.series.label, event.hardware), ""), event.hardware),
            by(event),
            since(event),
            view(event.series, event.hardware),
        )
        for event in found.events
    ]


def by(event: Event) -> str:
    """How large an event is: `+3.1% (+2.5% to +3.7%)`."""
    if not math.isfinite(event.ratio):
        return ""
    told = words.change(event.ratio - 1)
    if math.isfinite(event.low) and math.isfinite(event.high):
        told += f" ({words.change(event.low - 1)} to {words.change(event.high - 1)})"
    return told


def since(event: Event) -> str:
    """The one commit that can have caused it, or the range."""
    if len(event.suspects) == 1:
        return event.suspects[0].hash[:8]
    return f"{event.before[:8]}..{event.after[:8]}"


def choices(found: Trend) -> dict[str, list[str]]:
    """What the page can be filtered by: name -> the values that there are."""
    places = [place(d.line.series, d.line.profile, d.line.hardware) for d in found.lines]
    names = ("machine", "op", "dtype", "shape")
    return {name: sorted({getattr(one, name) for one in places}) for name in names}


def script(found: Trend) -> str:
    """The data of the page as a script: `const TRENDS = {...};`, readable by any browser from disk."""
    commits = _in_order([[point.commit for point in drawn.line.points] for drawn in found.lines])
    number = {commit: i for i, commit in enumerate(commits)}
    data = {
        "commits": [commit[:10] for commit in commits],
        "lines": [_line(drawn, number) for drawn in found.lines],
        "events": [_event(change, number) for change in changes(found)],
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return f"const TRENDS = {text};\n"


def _in_order(sequences: Sequence[Sequence[str]]) -> list[str]:
    """One order of all commits: that of the history, as far as the series know it."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for sequence in sequences:
        distinct = list(dict.fromkeys(sequence))
        for i, commit in enumerate(distinct):
            sorter.add(commit, *distinct[max(i - 1, 0) : i])
    return list(sorter.static_order())


def _line(drawn: Drawn, number: dict[str, int]) -> dict[str, Any]:
    line = drawn.line
    where = place(line.series, line.profile, line.hardware)
    era = {i: j for j, one in enumerate(drawn.eras) for i in one.points}
    bands = [0] * len(line.points)
    for one in drawn.eras:
        for i, width in zip(one.points, _bands([line.points[i] for i in one.points]), strict=True):
            bands[i] = width
    made: dict[str, Any] = {
        "view": view(line.series, line.hardware),
        "name": line.series.benchmark.split(".", 1)[-1].removeprefix("track_").replace("_", " "),
        "unit": line.unit,
        "machine": where.machine,
        "op": where.op,
        "dtype": where.dtype,
        "shape": where.shape,
        "impl": where.impl,
        "at": [number[point.commit] for point in line.points],
        "values": [None if math.isnan(point.center) else float(f"{point.center:.4g}") for point in line.points],
        "bands": bands,
        "n": [len(point.values) for point in line.points],
    }
    if len(drawn.eras) > 1:
        made |= {"era": [era.get(i, 0) for i in range(len(line.points))], "eras": [one.changed for one in drawn.eras]}
    return made


def _bands(points: Sequence[Point]) -> list[int]:
    """Half the width of each point's interval, in ten thousandths of its value; 0 where there is none."""
    logs = [[math.log(value) for value in point.values] for point in points if min(point.values, default=0) > 0]
    freedom = sum(len(values) - 1 for values in logs)
    if freedom == 0:
        return [0] * len(points)
    squares = sum((value - sum(values) / len(values)) ** 2 for values in logs for value in values)
    margin = float(special.stdtrit(freedom, 0.5 + LEVEL / 2)) * math.sqrt(squares / freedom)
    return [round(1e4 * math.expm1(margin / math.sqrt(len(p.values)))) if p.values else 0 for p in points]


def _event(change: Change, number: dict[str, int]) -> dict[str, Any]:
    event = change.event
    told = " ".join(filter(None, (event.kind, change.by, "since", change.since)))
    return {
        "view": change.view,
        "impl": change.place.impl,
        "at": number.get(event.after, -1),
        "kind": event.kind,
        "certainty": event.certainty,
        "standing": event.standing,
        "told": f"{told}{f', {event.machine}' if event.machine else ''}",
    }
