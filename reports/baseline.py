"""Which earlier run tonight's times may be compared with, and in plain words why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.harness.records import Environment, Run, read_json
from reports.night import Night, load, run_folders

ACCEPTED = "accepted.txt"
"""A file of this name in a run folder, holding the reason, makes that run a baseline although its times were not."""


@dataclass(frozen=True)
class Baseline:
    """The run to compare with, or None; `reason` is one sentence either way."""

    night: Night | None
    reason: str


def find(run: Run, results: Path, passed: Callable[[Path], bool]) -> Baseline:
    """The newest earlier stored run of the same environment and protocol that passed or was accepted.

    `passed(run folder)` says whether the verdict stored there is pass or improved.
    """
    earlier = list(_earlier_stored(run.run_id, results))
    if not earlier:
        return Baseline(None, "no baseline: this is the first stored run")
    environment, protocol = run.provenance.environment, run.provenance.protocol
    same = [r for r in earlier if r.provenance.environment == environment]
    if not same:
        newest = earlier[0].provenance.environment
        return Baseline(None, f"no baseline: the environment changed from {changes(newest, environment)}")
    comparable = [r for r in same if r.provenance.protocol == protocol]
    if not comparable:
        was = same[0].provenance.protocol
        return Baseline(None, f"no baseline: the measuring protocol changed from {was} to {protocol}")
    for candidate in comparable:
        folder = results / "runs" / candidate.run_id
        if passed(folder) or (folder / ACCEPTED).exists():
            return Baseline(load(folder), f"baseline: run {candidate.run_id}")
    return Baseline(None, f"no baseline: none of {len(comparable)} earlier runs in this environment passed")


def changes(old: Environment, new: Environment) -> str:
    """What differs, as `torch 2.11 to torch 2.12`."""
    names = [f.name for f in fields(Environment) if getattr(old, f.name) != getattr(new, f.name)]
    before = ", ".join(f"{name} {getattr(old, name)}" for name in names)
    after = ", ".join(f"{name} {getattr(new, name)}" for name in names)
    return f"{before} to {after}"


def _earlier_stored(run_id: str, results: Path) -> Iterator[Run]:
    for folder in run_folders(results):
        if folder.name >= run_id:
            continue
        try:
            run = read_json(folder / "run.json", Run)
        except (ValueError, OSError):
            continue  # an interrupted or foreign run is no baseline; the page's history names it
        if run.stored and run.run_id == folder.name:
            yield run
