"""What a tuning run leaves behind: a journal to go on from, a tile file, and a comparison for people.

<device>.<dtype>.jsonl  Line, one per event, in the order in which it happened
<device>.json           the tile file (docs/tuning.md), written anew after each point
<device>.md             tuned against heuristic, from the tile file
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mot_impl
from benchmarks.harness import records
from benchmarks.harness.records import Provenance
from benchmarks.harness.tuner_points import Point
from benchmarks.harness.tuner_race import ratio
from mot_impl.compiled import Compiled
from mot_impl.tiles import SCHEMA, Tile, TileTable, file_name

Rows = Literal["sorted", "any"]


@dataclass(frozen=True)
class Run:
    """Who measures what, on what. Only runs that agree in all but their provenance's time and command go on from
    each other; `kernels` is a hash of mot_impl's sources."""

    device: str
    dtype: str
    kernels: str
    provenance: Provenance

    def same_as(self, other: Run) -> bool:
        """Whether results of both may stand in one journal."""

        def key(run: Run) -> tuple[object, ...]:
            made = run.provenance
            return run.device, run.dtype, run.kernels, made.environment.fingerprint, made.protocol, made.seed

        return key(self) == key(other)


@dataclass(frozen=True)
class Build:
    """A kernel that was compiled, or why it could not be."""

    variant: str
    compiled: Compiled | None
    error: str = ""


@dataclass(frozen=True)
class Entrant:
    """A tile in the race for a point: seconds by round, or why it has none."""

    tile: Tile
    seconds: list[float]
    reason: str = ""


@dataclass(frozen=True)
class Choice:
    """The tile of a point for sorted rows or for rows in any order, and the rule's, measured against each other anew.

    worst, rms  its errors against the reference, of their limits
    rule_seconds  none if the rule's tile does not run, or disagrees with the reference
    """

    rows: Rows
    tile: Tile
    seconds: list[float]
    rule: Tile
    rule_seconds: list[float]
    worst: float
    rms: float


@dataclass(frozen=True)
class Result:
    """All that is known of one point. Without choices, `reason` says why."""

    point: Point
    device: str
    entrants: list[Entrant]
    choices: list[Choice]
    elapsed: float
    reason: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a journal: one of the three."""

    run: Run | None = None
    build: Build | None = None
    result: Result | None = None


@dataclass(frozen=True)
class Journal:
    """A journal in a folder, of one device and dtype."""

    path: Path

    @classmethod
    def at(cls, folder: Path, run: Run) -> Journal:
        """The journal that `run` goes on with, or a new one.

        Raises ValueError if what is there was measured with other kernels, software or settings.
        """
        journal = cls(folder / f"{file_name(run.device)}.{run.dtype}.jsonl")
        for line in journal.lines():
            if line.run is not None and not line.run.same_as(run):
                before = line.run.provenance
                raise ValueError(
                    f"{journal.path} was begun by commit {before.commit[:8]} with kernels {line.run.kernels}, seed "
                    f"{before.seed} on {line.run.device}, but this is {run.provenance.commit[:8]} with {run.kernels}, "
                    f"seed {run.provenance.seed} or other software; results are not mixed: delete it, or name another "
                    "--out"
                )
        journal.append(Line(run=run))
        return journal

    def append(self, line: Line) -> None:
        """One more event, in a single write."""
        records.append_line(self.path, line)

    def lines(self) -> list[Line]:
        """All whole lines; one that a kill cut short is measured again."""
        return records.read_lines(self.path, Line)[0]

    def builds(self) -> dict[str, Build]:
        """What was compiled, by variant. Failures are tried again."""
        found = (line.build for line in self.lines())
        return {build.variant: build for build in found if build is not None and build.compiled is not None}

    def results(self) -> dict[Point, Result]:
        """The points that are done."""
        found = (line.result for line in self.lines())
        return {result.point: result for result in found if result is not None and result.choices}


def hash_of_kernels() -> str:
    """12 hexadecimal digits that change with any source of mot_impl."""
    found = hashlib.sha256()
    for path in sorted(Path(mot_impl.__file__).parent.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]


def write_table(folder: Path, run: Run, results: list[Result]) -> Path:
    """Put the results of a run into the tile file of its device, beside what it holds of other problems.

    Raises ValueError if a file that is there is none.
    """
    path = folder / f"{file_name(run.device)}.json"
    content: dict[str, Any] = {"schema": SCHEMA, "device": run.device, "made": [], "entries": []}
    if path.exists():
        TileTable.load(folder)
        content = json.loads(path.read_text())
    if not isinstance(content["made"], list):
        content["made"] = [content["made"]]
    made = _made(run)
    if made not in content["made"]:
        content["made"].append(made)
    entries = [
        _entry(result.point, run.dtype, choice, content["made"].index(made))
        for result in results
        for choice in result.choices
    ]
    replaced = {_place(entry) for entry in entries}
    content["entries"] = sorted([e for e in content["entries"] if _place(e) not in replaced] + entries, key=_place)
    lines = ",\n  ".join(json.dumps(entry) for entry in content["entries"])
    head = json.dumps({name: content[name] for name in ("schema", "device", "made")}, indent=1)[:-2]
    text = f'{head},\n "entries": [\n  {lines}\n ]\n}}\n'
    records.write_together({path: text.encode(), path.with_suffix(".md"): comparison(json.loads(text)).encode()})
    return path


def comparison(content: dict[str, Any]) -> str:
    """A tile file as a Markdown table: tuned against heuristic, point by point."""
    measured = [entry for entry in content["entries"] if "ratio" in entry]
    lines = [
        f"Tiles of {content['device']}: microseconds of one call, medians; in brackets the 95 % interval of the ratio.",
        "",
        "| op | dtype | M | N | K | rows | tuned | us | heuristic | us | tuned / heuristic |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in measured:
        low, high = entry["interval"]
        same = Tile(**entry["tile"]) == Tile(**entry["heuristic"])
        told = "the same" if same else f"{entry['ratio']:.3f} ({low:.3f} to {high:.3f})"
        lines.append(
            f"| {entry['op']} | {entry['dtype']} | {entry['m']}, {entry['n_text']} text | {entry['n']} | {entry['k']} "
            f"| {entry['rows']} | {Tile(**entry['tile'])} | {entry['seconds'] * 1e6:.1f} | "
            f"{Tile(**entry['heuristic'])} | {entry['heuristic_seconds'] * 1e6:.1f} | {told} |"
        )
    for rows in ("sorted", "any"):
        ratios = [entry["ratio"] for entry in measured if entry["rows"] == rows]
        if ratios:
            lines += ["", f"Rows {rows}: geometric mean {statistics.geometric_mean(ratios):.3f} of {len(ratios)}."]
    return "\n".join(lines) + "\n"


def _made(run: Run) -> dict[str, Any]:
    made = run.provenance
    return {
        "date": made.created[:10],
        "command": made.command,
        "commit": made.commit,
        "dirty": made.dirty,
        "kernels": run.kernels,
        "device": run.device,
        "driver": made.environment.driver,
        "torch": made.environment.torch,
        "triton": made.environment.triton,
        "protocol": made.protocol,
        "seed": made.seed,
    }


def _entry(point: Point, dtype: str, choice: Choice, made: int) -> dict[str, Any]:
    entry = {
        "op": point.op,
        "dtype": dtype,
        "m": point.m,
        "n": point.n,
        "k": point.k,
        "tile": dataclasses.asdict(choice.tile),
        "n_text": point.n_text,
        "rows": choice.rows,
        "seconds": statistics.median(choice.seconds),
        "made": made,
        "heuristic": dataclasses.asdict(choice.rule),
    }
    if choice.rule_seconds:
        middle, low, high = ratio(choice.seconds, choice.rule_seconds)
        entry |= {
            "heuristic_seconds": statistics.median(choice.rule_seconds),
            "ratio": middle,
            "interval": [low, high],
        }
    return entry


def _place(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What an entry is of. Sorted rows first: the reader takes the first of one M that can run."""
    rows = entry.get("rows", "any")
    return entry["op"], entry["dtype"], entry["n"], entry["k"], entry["m"], {"sorted": 0, "any": 1}[rows]
