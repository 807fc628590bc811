"""The committed figures of known-good runs: one file per stack, golden_images/known_good-<stack>.json.

A figure is a distance (golden_limits.distance), rounded to three digits.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import typing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.golden_limits import KINDS, Kind
from benchmarks.harness.records import Environment, plain, read_json, write_atomic
from benchmarks.harness.stack import Stack

PREFIX = "known_good-"
DIGITS = 3


@dataclass(frozen=True)
class Runs:
    """Runs by name, and per metric one distance for each; NaN for a run that made no picture to compare."""

    names: list[str]
    parity: dict[str, list[float]]
    drift: dict[str, list[float]]

    def of(self, kind: Kind) -> dict[str, list[float]]:
        """Metric -> distances."""
        return self.parity if kind == "parity" else self.drift


@dataclass(frozen=True)
class Figures:
    """What was measured of one case in one dtype.

    request_sha256, checkpoint_sha256  what was asked of what
    picture  fingerprint of the picture that drift is measured from
    good     known-good runs, which limits are set from
    faults   injected faults, which limits must see
    """

    prompt: str
    request_sha256: str
    checkpoint_sha256: str
    picture: str
    good: Runs
    faults: Runs

    @property
    def sha256(self) -> str:
        """A hash of all of it: what limits say that they were set from."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Population:
    """All known-good runs on one stack, case -> dtype -> figures. `definition` is images.DEFINITION."""

    stack: Stack
    definition: int
    created: str
    commit: str
    environment: Environment
    cases: dict[str, dict[str, Figures]]

    def joined(self, other: Population) -> Population:
        """The other's figures, and this one's where the other has none. Raises ValueError for another stack."""
        if (self.stack, self.definition) != (other.stack, other.definition):
            raise ValueError(
                f"figures of {other.stack.name}, metrics {other.definition}, do not belong to {self.stack.name}, "
                f"metrics {self.definition}; measure them again"
            )
        cases = {name: self.cases.get(name, {}) | other.cases.get(name, {}) for name in {**self.cases, **other.cases}}
        return dataclasses.replace(other, cases=dict(sorted(cases.items())))


def rounded(value: float) -> float:
    """To the digits that are stored."""
    return float(f"{value:.{DIGITS}g}")


def path_of(goldens: Path, stack: Stack) -> Path:
    """Where the figures of a stack lie."""
    return goldens / f"{PREFIX}{stack.name}.json"


def write(path: Path, population: Population) -> None:
    """Write figures, a list of numbers or names on one line; not indented, as there are thousands."""
    text = json.dumps(plain(population), indent=0, allow_nan=False)
    short = re.sub(
        r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text
    )
    write_atomic(path, f"{short}\n".encode())


def read(path: Path) -> Population:
    """Raises OSError, or ValueError for a file that is none."""
    return read_json(path, Population)


def stored(goldens: Path) -> list[Population]:
    """The figures of every stack beside the cases, by name of the file. Raises ValueError for a file that is none."""
    return [_cached(path, path.stat().st_mtime_ns) for path in sorted(goldens.glob(f"{PREFIX}*.json"))]


@functools.lru_cache(maxsize=32)
def _cached(path: Path, _: int) -> Population:
    return read(path)


def joined_with_stored(goldens: Path, population: Population) -> Population:
    """The figures, with those of other cases and dtypes that lie there already."""
    there: typing.Iterable[Population] = (old for old in stored(goldens) if old.stack == population.stack)
    old = next(iter(there), None)
    return population if old is None or old.definition != population.definition else old.joined(population)


def differences(old: Population | None, new: Population) -> dict[str, float]:
    """ "case dtype" -> the largest relative difference between two measurements of the same known-good runs.

    Runs are matched by their names.
    """
    found: dict[str, float] = {}
    for case, by_dtype in new.cases.items():
        for dtype, figures in by_dtype.items():
            if old and dtype in old.cases.get(case, {}):
                found[f"{case} {dtype}"] = _farthest(old.cases[case][dtype].good, figures.good)
    return found


def _farthest(old: Runs, new: Runs) -> float:
    there = {name: i for i, name in enumerate(old.names)}
    pairs = [(i, there[name]) for i, name in enumerate(new.names) if name in there]
    return max(
        (
            abs(values[i] - old.of(kind)[metric][j]) / max(values[i], old.of(kind)[metric][j])
            for kind in KINDS
            for metric, values in new.of(kind).items()
            for i, j in pairs
            if metric in old.of(kind) and values[i] != old.of(kind)[metric][j]
        ),
        default=0.0,
    )
