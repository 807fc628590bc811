"""The verdict of one run: judged first as data, rendered later.

Order: environment, conformance, parity, golden, time. Where numerics failed, time is void. Whatever is missing is
not-measured: it closes the gate, and is never a pass and never a zero. reports/timing.py states the rule for time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.records import EXIT_CODES, SCHEMA, SchemaError, Status, read_json
from reports import numerics, speed
from reports.item import AREAS, FILES, SEVERITY, SHOWN_ONLY, Area, Item, worst
from reports.night import load, run_folders, tonight
from reports.timing import Comparison

NOUNS: dict[Area, tuple[str, str]] = {
    "environment": ("check", "checks"),
    "conformance": ("case of the original BAGEL", "cases of the original BAGEL"),
    "parity": ("op", "ops"),
    "golden": ("picture", "pictures"),
    "time": ("benchmark", "benchmarks"),
}


@dataclass(frozen=True)
class Verdict:
    """What one run says. `sentence` is the reason in one line; items are ordered as they were judged.

    baseline     id of the run that times were compared with; empty if there is none
    comparisons  every series that both runs measured
    """

    run_id: str
    status: Status
    sentence: str
    items: list[Item]
    baseline: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    schema: int = SCHEMA

    def area(self, area: Area) -> list[Item]:
        """The items of one area."""
        return [item for item in self.items if item.area == area]


def judge(run_folder: Path, results: Path) -> Verdict:
    """Judge one run folder with the asv results and the earlier runs under `results`.

    Raises SchemaError for records or asv results of another version. Everything else that is wrong with the files is an
    item of the verdict.
    """
    night = load(run_folder)
    if night.run is None:
        reason = (
            night.damage[0] if night.damage else "run.json is missing: the run was interrupted before its first step"
        )
        item = Item("environment", "not-measured", "run.json", reason, night.at("run.json"), "motbench nightly")
        return Verdict(run_folder.name, "not-measured", f"Not measured: {reason}.", [item])
    items = numerics.judge(night)
    judged = speed.judge(night, results, worst(items) == "regressed", _passed)
    items += judged.items
    status = worst(items)
    sentence = _sentence(status, items, judged.baseline)
    return Verdict(night.run_id, status, sentence, items, judged.baseline, judged.comparisons)


def latest(results: Path) -> Verdict:
    """Tonight's verdict: of the newest run of each machine, the worst; of equals the newest.

    Each is the stored one, but judged now if it or a record that it rests on can no longer be read, and no better than
    judged now if such a record is gone: a pass that nothing shows is none. Raises SchemaError.
    """
    found = [_shown(folder, results) for folder in tonight(run_folders(results))]
    if not found:
        item = Item("environment", "not-measured", "runs", f"{results / 'runs'} holds no run", "", "motbench nightly")
        return Verdict("", "not-measured", "Not measured: there is no run yet.", [item])
    return max(found, key=_severity)


def of(run_folder: Path, results: Path) -> Verdict:
    """The stored verdict of a run, or its verdict now if none was stored or it cannot be read. Raises SchemaError."""
    try:
        return read_json(run_folder / "verdict.json", Verdict)
    except SchemaError:
        raise
    except (ValueError, OSError):
        return judge(run_folder, results)


def headline(items: list[Item]) -> str:
    """The first of the worst items in one line; a passing area says what passed."""
    first = next((item for item in items if item.status == worst(items)), None)
    if first is None:
        return "nothing was recorded"
    return first.reason if first.status == "pass" else f"{first.subject}: {first.reason}"


def _shown(run_folder: Path, results: Path) -> Verdict:
    night = load(run_folder)
    if night.run is None or night.damage:
        return judge(run_folder, results)
    stored = of(run_folder, results)
    if all((run_folder / name).exists() for name in FILES if name not in SHOWN_ONLY):
        return stored
    # A regressed run stays regressed when the record of it is deleted.
    return max(stored, judge(run_folder, results), key=_severity)


def _severity(verdict: Verdict) -> int:
    return SEVERITY.index(verdict.status)


def _passed(run_folder: Path) -> bool:
    try:
        return EXIT_CODES[read_json(run_folder / "verdict.json", Verdict).status] == 0
    except (ValueError, OSError):
        return False


def _sentence(status: Status, items: list[Item], base: str) -> str:
    bad = [item for item in items if item.status == status]
    first = f"{bad[0].subject}: {bad[0].reason}" if bad else ""
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    if status == "regressed":
        void = "" if bad[0].area == "time" else " Speed is not judged: numerics failed."
        return f"{_counted(bad)} regressed. First: {first}.{void}"
    if status == "not-measured":
        return f"Not everything was measured: {first}{more}."
    if status == "inconclusive":
        return (
            f"Time is inconclusive for {_counted(bad)}: {first}{more}." if bad[0].area == "time" else f"{first}{more}."
        )
    agree = "The fused and the reference implementation agree and every picture holds"
    if status == "improved":
        return f"{agree}; {_counted(bad)} faster than in run {base}."
    return f"{agree}; " + (f"nothing is slower than in run {base}." if base else _first_night(items))


def _first_night(items: list[Item]) -> str:
    return next(item.reason for item in items if item.area == "time" and item.subject == "baseline") + "."


def _counted(items: list[Item]) -> str:
    counts = Counter(item.area for item in items)
    return " and ".join(f"{counts[area]} {NOUNS[area][counts[area] > 1]}" for area in AREAS if counts[area])


def summary_text(verdict: Verdict, most: int = 4) -> str:
    """One screen for a terminal: the verdict, each area, the first `most` things to look at, and what to type."""
    lines = [f"{verdict.status.upper()}: {verdict.sentence}", ""]
    for area in AREAS:
        items = verdict.area(area)
        lines.append(f"  {area:12} {worst(items):13} {headline(items)}")
    open_items = [item for item in verdict.items if item.status not in ("pass", "improved")]
    if open_items:
        lines += ["", "look at"]
    for item in sorted(open_items, key=lambda item: item.status != "regressed")[:most]:
        lines.append(f"  {item.area}: {item.subject}: {item.reason}")
        lines += [f"      look: {item.look}"] if item.look else []
        lines += [f"      type: {item.reproduce}"] if item.reproduce else []
    if len(open_items) > most:
        lines.append(f"  and {len(open_items) - most} more, in the report")
    lines += ["", f"run {verdict.run_id or 'none'}, exit code {EXIT_CODES[verdict.status]}"]
    return "\n".join(_printable(line) for line in lines)


def _printable(line: str) -> str:
    """Control characters out: a record must not drive the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
