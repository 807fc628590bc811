"""A trend written out for a terminal and for a job's summary; reports/trend.py judges it."""

from __future__ import annotations

import math

from benchmarks.harness.records import EXIT_CODES
from reports import words
from reports.told import clean, escape
from reports.trend import Event, Trend

SHOWN = 20
COLUMNS = ("what", "series", "change", "between", "suspects", "certainty", "counts")
HEADER = (
    "change: after / before - 1, with its 95 % interval; between: the last commit without it, the first with it; "
    "suspects: commits in between that touch what the series measures; asv: its own detector has a step there too; "
    "beside the others: not in its own numbers, but in those less what the other series of the same nights did."
)


def terminal(trend: Trend) -> str:
    """One screen: the sentence, what happened, where series were cut, and the line that finds the commit."""
    lines = [f"{trend.status.upper()}: {trend.sentence}", ""]
    rows = [COLUMNS, *(_row(event) for event in trend.events[:SHOWN])]
    if len(rows) > 1:
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines += ["", HEADER]
    lines += [f"{note}" for note in _notes(trend)]
    if typed := [event.reproduce for event in trend.events if event.standing and event.reproduce]:
        lines += ["", "type", *(f"  {line}" for line in typed[:3])]
    lines += ["", f"head {trend.head[:10]}, exit code {EXIT_CODES[trend.status]}"]
    return "\n".join(clean(line) for line in lines)


def markdown(trend: Trend) -> str:
    """The same for a job's summary."""
    lines = [f"**{trend.status}**: {escape(trend.sentence)}", ""]
    if trend.events:
        lines += [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
        lines += [f"| {' | '.join(escape(cell) for cell in _row(event))} |" for event in trend.events[:SHOWN]]
    lines += ["", *(f"- {escape(note)}" for note in _notes(trend) if note)]
    return "\n".join(clean(line) for line in lines) + "\n"


def _row(event: Event) -> tuple[str, ...]:
    change = words.change(event.ratio - 1)
    if math.isfinite(event.low):
        change += f" ({words.change(event.low - 1)} to {words.change(event.high - 1)})"
    named = [f"{commit.hash[:8]} {commit.subject}" for commit in event.suspects[:1]]
    more = f" and {len(event.suspects) - 1} more" if len(event.suspects) > 1 else ""
    counts = event.accepted or event.machine or ("yes" if event.standing else "past")
    certainty = event.certainty + (", asv" if event.asv else "") + (", beside the others" if event.beside else "")
    between = f"{event.before[:8]}..{event.after[:8]}"
    return event.kind, event.series.label, change, between, "".join(named) + more or "none", certainty, counts


def _notes(trend: Trend) -> list[str]:
    cut: dict[str, int] = {}
    for drawn in trend.lines:
        for era in drawn.eras:
            if era.changed:
                where = f"{drawn.line.hardware}: {era.changed}"
                cut[where] = cut.get(where, 0) + 1
    notes = [f"{n} series begin anew on {where}" for where, n in cut.items()]
    notes += [f"{event.series.label}: tile {event.tile}" for event in trend.events[:SHOWN] if event.tile]
    if len(trend.events) > SHOWN:
        notes.append(f"{len(trend.events) - SHOWN} older events stand in the JSON")
    if trend.elsewhere:
        notes.append(f"{trend.elsewhere} numbers are of commits that this history does not have")
    notes += [*trend.vanished, *trend.damage]
    return ["", *notes] if notes else []
