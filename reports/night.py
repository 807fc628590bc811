"""One run folder, read: whatever is missing or cut short is named, never believed and never fatal."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from benchmarks.harness.records import (
    Check,
    Conformance,
    Drift,
    Golden,
    GoldenWatch,
    Parity,
    Profile,
    Run,
    SchemaError,
    Selftest,
    Stages,
    Timing,
    Value,
    read_json,
    read_lines,
)

T = TypeVar("T")

TONIGHT = timedelta(hours=36)
"""Two machines that begin within this of each other share a night."""


@dataclass(frozen=True)
class Night:
    """The records of one run. A missing file leaves None or an empty list; `damage` names what was unreadable."""

    folder: Path
    run: Run | None
    profile: Profile | None
    checks: list[Check]
    conformance: list[Conformance]
    parity: list[Parity]
    golden: list[Golden]
    timing: list[Timing]
    values: list[Value]
    damage: list[str]
    selftest: Selftest | None = None
    stages: list[Stages] = field(default_factory=list)
    drift: list[Drift] = field(default_factory=list)
    watch: GoldenWatch | None = None

    @property
    def run_id(self) -> str:
        """The folder's name; it begins with the time, so run ids sort by age."""
        return self.folder.name

    def at(self, name: str = "") -> str:
        """A file of the run as this shell opens it: relative where it lies below the working directory."""
        path, here = self.folder.resolve() / name, Path.cwd()
        return str(path.relative_to(here) if path.is_relative_to(here) else path)


def run_folders(results: Path) -> list[Path]:
    """Every run folder under `results`, newest first."""
    runs = results / "runs"
    if not runs.is_dir():
        return []
    return sorted((path for path in runs.iterdir() if path.is_dir() and path.name[0] != "."), reverse=True)


def tonight(folders: list[Path]) -> list[Path]:
    """The newest run of each machine, of those begun within TONIGHT before the newest of all; newest first.

    `folders` is newest first. A run that cannot be read has no machine: it counts only if it is the newest of all.
    """
    found: dict[tuple[str, int, str | None], Path] = {}
    newest: datetime | None = None
    for folder in folders:
        try:
            run = read_json(folder / "run.json", Run)
            started = datetime.fromisoformat(run.started)
        except (ValueError, OSError):
            if not found:
                return [folder]
            continue
        newest = newest or started
        if newest - started > TONIGHT:
            break
        environment = run.provenance.environment
        found.setdefault((environment.cpu, environment.cores, environment.gpu), folder)
    return list(found.values())


def load(folder: Path) -> Night:
    """Read one run folder. Raises SchemaError for records of another version; nothing else that lies in the files."""
    damage: list[str] = []

    def one(name: str, kind: type[T]) -> T | None:
        try:
            return read_json(folder / name, kind) if (folder / name).exists() else None
        except SchemaError:
            raise
        except (ValueError, OSError) as error:
            damage.append(f"{name} cannot be read: {error}")
            return None

    def lines(name: str, kind: type[T]) -> list[T]:
        try:
            found, broken = read_lines(folder / name, kind)
        except OSError as error:
            damage.append(f"{name} cannot be read: {error}")
            return []
        if broken:
            damage.append(f"{name} has {broken} unreadable {'line' if broken == 1 else 'lines'}")
        return found

    return Night(
        folder,
        one("run.json", Run),
        one("series.json", Profile),
        one("doctor.json", list[Check]) or [],
        lines("conformance.jsonl", Conformance),
        lines("parity.jsonl", Parity),
        lines("golden.jsonl", Golden),
        lines("timing.jsonl", Timing),
        lines("values.jsonl", Value),
        damage,
        one("selftest.json", Selftest),
        lines("stages.jsonl", Stages),
        lines("drift.jsonl", Drift),
        one("golden_watch.json", GoldenWatch),
    )
