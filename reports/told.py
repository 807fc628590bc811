"""A joint verdict written out: for a terminal, a pull request, a CI's test tab, and GitHub's annotations."""

from __future__ import annotations

from collections import defaultdict
from xml.etree import ElementTree

from benchmarks.harness.records import EXIT_CODES, Status
from reports import explained, words
from reports.decide import Decision, Effect
from reports.joint import UNCHANGED, Joint

SHOWN = 10
"""Series that a pull request shows; the others are counted, and stand in decision.json."""

COLUMNS = ("verdict", "series", "change", "interval", "had to pass", "could see", "base against base", "rounds")
HEADER = (
    "change: head / base - 1, with the interval at the level tested; had to pass: the threshold of this series' own "
    "noise; could see: the smallest slowdown found with probability {power:.0%}; base against base: the same "
    "measurement with nothing changed."
)


def terminal(joint: Joint) -> str:
    """One screen: the verdict, every series, what was left out, and the line that reproduces what is red."""
    rows = [COLUMNS, *(_row(one) for one in joint.decisions)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [f"{joint.status.upper()}: {joint.sentence}", ""]
    if joint.decisions:
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines += ["", HEADER.format(power=joint.power)]
    for one in joint.explained:
        lines += ["", *explained.lines(one)]
    lines += _notes(joint)
    if typed := _typed(joint):
        lines += ["", "type", *(f"  {line}" for line in typed)]
    base, head = joint.asked.base[:10], joint.asked.head[:10]
    lines += ["", f"base {base}, head {head}, exit code {EXIT_CODES[joint.status]}"]
    return "\n".join(clean(line) for line in lines)


def markdown(joint: Joint) -> str:
    """For a pull request: the sentence, at most SHOWN series, worst first, and the line that reproduces what is red."""
    lines = [f"**{joint.status}**: {escape(joint.sentence)}", ""]
    interesting = [one for one in joint.decisions if one.status != "pass"]
    shown = (interesting or joint.decisions)[:SHOWN]
    if shown:
        lines += [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
        lines += [f"| {' | '.join(escape(cell) for cell in _row(one))} |" for one in shown]
        hidden = len(joint.decisions) - len(shown)
        lines += ["", f"{hidden} more series: {_counts(joint, shown)}."] if hidden else [""]
    for one in joint.explained:
        lines += ["", "```", *explained.lines(one), "```"]
    lines += [f"- {escape(note)}" for note in _notes(joint) if note]
    if typed := _typed(joint):
        lines += ["", "```", *typed, "```"]
    return "\n".join(clean(line) for line in lines) + "\n"


def junit(joint: Joint) -> bytes:
    """One test case per series and one for the image. Regressed is a failure; what leaves it open is an error."""
    suite = ElementTree.Element("testsuite", name="motbench gate")
    counts = {"failure": 0, "error": 0}

    def case(name: str, status: Status, text: str, skipped: bool = False) -> None:
        element = ElementTree.SubElement(suite, "testcase", classname="motbench", name=clean(name))
        kind = {"regressed": "failure", "inconclusive": "error", "not-measured": "error"}.get(status)
        if skipped:
            ElementTree.SubElement(element, "skipped", message=clean(text))
        elif kind:
            counts[kind] += 1
            ElementTree.SubElement(element, kind, type=status, message=clean(text))

    if joint.image:
        case("image", joint.image.status, joint.image.sentence)
    for one in joint.decisions:
        case(one.series.label, one.status, one.accepted or one.reason, bool(one.accepted))
    for series in (*joint.skipped, *joint.unchanged):
        case(series.label, "pass", series.reason, True)
    attributes = {"tests": len(suite), "failures": counts["failure"], "errors": counts["error"]}
    suite.attrib |= {name: str(value) for name, value in attributes.items()}
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text


def github(joint: Joint) -> str:
    """GitHub workflow commands: one line per axis or series that is not green, or was not timed."""
    lines = []
    if joint.image and joint.image.status not in ("pass", "improved"):
        lines.append(_annotation("error", "image", joint.image.sentence))
    for one in joint.decisions:
        if one.status == "regressed" and not one.accepted:
            lines.append(_annotation("error", one.series.label, one.reason))
        elif one.status in ("inconclusive", "not-measured") or one.accepted:
            lines.append(_annotation("warning", one.series.label, one.accepted or one.reason))
    if same := _same(joint):
        lines.append(_annotation("notice", "not timed", same))
    return "\n".join(lines)


def _row(one: Decision) -> tuple[str, ...]:
    status = f"{one.status} (accepted)" if one.accepted else one.status
    if one.change is None or one.control is None:
        return (status, one.series.label, "", "", "", "", "", str(one.rounds))
    return (
        status,
        one.series.label,
        words.change(one.change.ratio - 1),
        _interval(one.change),
        words.change(one.threshold),
        words.change(one.visible),
        f"{words.change(one.control.ratio - 1)} ({_interval(one.control)})",
        str(one.rounds),
    )


def _interval(effect: Effect) -> str:
    return f"{words.change(effect.low - 1)} to {words.change(effect.high - 1)}"


def _notes(joint: Joint) -> list[str]:
    said: dict[str, list[str]] = defaultdict(list)
    for one in joint.decisions:
        if one.change is None or one.accepted:
            said[one.accepted or one.reason].append(one.series.label)
    for series in joint.skipped:
        said[series.reason].append(series.label)
    notes = [same] if (same := _same(joint)) else []
    notes += [
        f"{labels[0]}{f' and {len(labels) - 1} more' if len(labels) > 1 else ''}: {reason}"
        for reason, labels in said.items()
    ]
    if joint.asked.environment.profile == "gpu" and any(one.change and not one.cycles for one in joint.decisions):
        notes.append("SM clock: not measured, so that cycles do not confirm times; pip install nvidia-ml-py")
    notes += joint.damage
    return ["", *notes] if notes else []


def _same(joint: Joint) -> str:
    """The series that were not timed, all of them, in one line; empty if there are none."""
    labels = ", ".join(series.label for series in joint.unchanged)
    return f"{UNCHANGED}, {len(joint.unchanged)} series: {labels}" if labels else ""


def _typed(joint: Joint) -> list[str]:
    """What to type: the image's line, else the line of the worst series that is not green."""
    if joint.image and joint.image.status not in ("pass", "improved"):
        return [joint.image.reproduce] if joint.image.reproduce else []
    red = [one for one in joint.decisions if one.status in ("regressed", "inconclusive") and not one.accepted]
    return [joint.reproduce(red[0])] if red else []


def _counts(joint: Joint, shown: list[Decision]) -> str:
    hidden = [one.status for one in joint.decisions if one not in shown]
    return ", ".join(f"{hidden.count(status)} {status}" for status in dict.fromkeys(hidden))


def _annotation(kind: str, title: str, message: str) -> str:
    def escaped(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    title = escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={title}::{escaped(message)}"


def escape(text: str) -> str:
    """Markdown and HTML out: a benchmark's name or an error message must not write on the page."""
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "[": "&#91;", "]": "&#93;", "|": "\\|", "`": "'"}
    for character, escaped in (marks | {"\n": " ", "\r": " "}).items():
        text = text.replace(character, escaped)
    return text


def clean(text: str) -> str:
    """Control characters out: a record must not drive the terminal, nor break XML."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
