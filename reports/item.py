"""One line of a verdict, and how lines add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.harness.records import Status
from reports.night import Night

Area = Literal["environment", "conformance", "parity", "golden", "time"]
AREAS: tuple[Area, ...] = ("environment", "conformance", "parity", "golden", "time")
"""In the order in which they are judged."""

STEPS: dict[Area, str] = {
    "environment": "doctor",
    "conformance": "conformance",
    "parity": "parity",
    "golden": "golden",
    "time": "asv",
}
"""The step of the main job that fills each area."""

COMMANDS: dict[Area, str] = {
    "environment": "motbench doctor",
    "conformance": "motbench parity tests/data/bagel_oracle",
    "parity": "python -m pytest tests/mot_impl/test_parity.py",
    "golden": "motbench golden check",
    "time": "asv run --show-stderr {commit}^!",
}
"""What repeats the step of an area alone, as near as one line comes."""

FILES: dict[str, Area] = {
    "run.json": "environment",
    "doctor.json": "environment",
    "conformance.jsonl": "conformance",
    "parity.jsonl": "parity",
    "golden.jsonl": "golden",
    "drift.jsonl": "golden",
    "golden_watch.json": "golden",
    "selftest.json": "golden",
    "series.json": "time",
    "timing.jsonl": "time",
    "values.jsonl": "time",
    "stages.jsonl": "time",
}

SHOWN_ONLY = frozenset(("drift.jsonl", "golden_watch.json", "stages.jsonl"))
"""Of FILES those that a night may lack: they are shown, and no verdict rests on them."""

SEVERITY: tuple[Status, ...] = ("pass", "improved", "inconclusive", "not-measured", "regressed")
"""From harmless to worst; the worst item decides."""


@dataclass(frozen=True)
class Item:
    """What was judged and why. look: the file, picture or log to open; reproduce: one line to type."""

    area: Area
    status: Status
    subject: str
    reason: str
    look: str = ""
    reproduce: str = ""


def worst(items: Iterable[Item]) -> Status:
    """The status of several items together; nothing at all is not-measured."""
    return max((item.status for item in items), key=SEVERITY.index, default="not-measured")


def of_damage(night: Night, area: Area) -> list[Item]:
    """Unreadable records of an area: what they said is not known."""
    names = [(text.split(" ")[0], text) for text in night.damage]
    return [
        Item(area, "not-measured", name, text, night.at(name), "motbench nightly")
        for name, text in names
        if FILES[name] == area
    ]


def with_step(night: Night, area: Area, items: list[Item]) -> list[Item]:
    """The items of an area and what its step says, where that is worse: a step that never ran, or died half-way.

    Where the step left nothing, its own words replace those of the missing records.
    """
    name = STEPS[area]
    step = next((step for step in night.run.steps if step.name == name), None) if night.run else None
    if step is None:
        said = Item(area, "not-measured", f"step {name}", "the step did not run", reproduce="motbench nightly")
    elif step.status == "pass":
        return items
    else:
        reason = step.reason or f"the step ended as {step.status} without a reason"
        said = _said(night, area, step.status, reason)
    if not (_recorded(night, area) or any(FILES[text.split(" ")[0]] == area for text in night.damage)):
        return [said]
    worse = SEVERITY.index(said.status) > SEVERITY.index(worst(items))
    return [said, *items] if worse else items


def _said(night: Night, area: Area, status: Status, reason: str) -> Item:
    """What a step says of itself: its log tells more, and it can be run alone. One that was not started has no log."""
    name = STEPS[area]
    log = f"{name}.log" if (night.folder / f"{name}.log").exists() else ""
    type_ = "motbench nightly" if area == "time" and not log else COMMANDS[area]
    if night.run:
        type_ = type_.format(commit=night.run.provenance.commit[:8])
    return Item(area, status, f"step {name}", reason, night.at(log), type_)


def _recorded(night: Night, area: Area) -> bool:
    found: dict[Area, list[Any]] = {
        "environment": night.checks,
        "conformance": night.conformance,
        "parity": night.parity,
        "golden": night.golden,
        "time": [*night.timing, *night.values],
    }
    return bool(found[area])
