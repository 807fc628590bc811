"""The speed page as data: kernels against the card's limits, pictures by stage, and what was compared."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from benchmarks.harness.records import (
    COPY,
    DENSE,
    FUSED,
    GATHER,
    Roofline,
    RooflinePoint,
    SchemaError,
    Stages,
    read_json,
)
from reports import joint
from reports.joint import Joint
from reports.timing import Key, key
from reports.whole import dtype_of

RUNS = 20
"""Rooflines and comparisons that are shown, newest first; older ones stay in the results folder."""


@dataclass(frozen=True)
class KernelRow:
    """One op at one size. The floor is the time that the card's limits allow, None where neither flops nor bytes were
    counted; a way without a time is None too.

    dtype    bf16, fp16, fp8 or int8: of the experts
    shares   way -> how much of what the card can do it reaches: floor / time; empty without a floor
    expects  reference and dense, as far as `motbench roofline` times them for such an op: what lacks one of these was
             not measured, any other does not apply
    """

    point: RooflinePoint
    dtype: str
    floor: float | None
    fused: float
    reference: float | None
    dense: float | None
    best: tuple[str, float] | None
    shares: dict[str, float]
    plot: Markup
    expects: frozenset[str]


@dataclass(frozen=True)
class Kernels:
    """One roofline run."""

    run: Roofline
    name: str
    rows: list[KernelRow]

    @property
    def machine(self) -> str:
        """The card."""
        return self.run.provenance.environment.gpu or self.run.provenance.environment.cpu

    @property
    def has_reference(self) -> bool:
        """Whether the reference applies to any row."""
        return any(row.reference is not None or "reference" in row.expects for row in self.rows)

    @property
    def has_dense(self) -> bool:
        """Whether dense applies to any row."""
        return any(row.dense is not None or "dense" in row.expects for row in self.rows)


@dataclass(frozen=True)
class StageRow:
    """One way to make one picture: seconds per stage, the median over the processes that have it, and their sum."""

    series: str
    seconds: dict[str, float]
    processes: int

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Compared:
    """One comparison of two commits."""

    name: str
    verdict: Joint


def kernels(results: Path) -> tuple[list[Kernels], list[str]]:
    """Every roofline, newest first, and a line per file that cannot be read. Raises SchemaError."""
    found, damage = [], []
    for path in sorted((results / "roofline").glob("*.json"), reverse=True)[:RUNS]:
        try:
            run = read_json(path, Roofline)
            found.append(Kernels(run, path.stem, [_kernel(point, run) for point in run.points]))
        except SchemaError:
            raise
        except (ValueError, OSError, KeyError, ZeroDivisionError) as error:
            damage.append(f"roofline/{path.name} cannot be read: {error}")
    return found, damage


def comparisons(results: Path) -> tuple[list[Compared], list[str]]:
    """Every stored decision of `motbench compare` and `gate`, newest first, and what cannot be read."""
    found, damage = [], []
    for path in sorted(results.glob(f"comparisons/*/{joint.VERDICT}"), reverse=True)[:RUNS]:
        try:
            found.append(Compared(path.parent.name, read_json(path, Joint)))
        except (ValueError, OSError) as error:
            damage.append(f"comparisons/{path.parent.name} cannot be read: {error}")
    return found, damage


def stages(records: list[Stages]) -> list[StageRow]:
    """One row per series."""
    groups: dict[Key, list[Stages]] = defaultdict(list)
    for record in records:
        groups[key(record.benchmark, record.params)].append(record)
    rows = []
    for group in groups.values():
        names = dict.fromkeys(name for record in group for name in record.seconds)
        medians = {name: statistics.median(r.seconds[name] for r in group if name in r.seconds) for name in names}
        rows.append(StageRow(" ".join(group[0].params.values()), medians, len(group)))
    return sorted(rows, key=lambda row: row.series)


def choices(found: list[Kernels]) -> dict[str, list[str]]:
    """What the kernels can be filtered by."""
    names = {
        "machine": {one.machine for one in found},
        "op": {row.point.name for one in found for row in one.rows},
        "dtype": {row.dtype for one in found for row in one.rows},
        "shape": {str(row.point.m) for one in found for row in one.rows},
    }
    return {name: sorted(values) for name, values in names.items()}


def _kernel(point: RooflinePoint, run: Roofline) -> KernelRow:
    floor = point.floor(run.ceilings) or None
    medians = {name: point.median(name) for name in point.samples}
    others = {name: value for name, value in medians.items() if name not in (FUSED, GATHER, DENSE)}
    best = min(others.items(), key=lambda item: item[1], default=None)
    shares = {} if floor is None else {name: floor / value for name, value in medians.items()}
    dtype = dtype_of(run.dtype, point.kind)
    times = medians[FUSED], medians.get(GATHER), medians.get(DENSE)
    return KernelRow(point, dtype, floor, *times, best, shares, _dots(shares), _expected(point))


def _expected(point: RooflinePoint) -> frozenset[str]:
    # A norm is held against a copy of its rows; quantised experts against dense ones.
    if COPY in point.samples:
        return frozenset()
    return frozenset(("reference", "dense") if point.kind == "dense" else ("dense",))


def _dots(shares: dict[str, float]) -> Markup:
    """0 to 100 % of what the card can do, a mark per way; those that the table names apart."""
    parts = ['<path class="rule" d="M4 12H196M4 6V18M100 9V15M196 6V18"/>']
    for name, share in sorted(shares.items(), key=lambda item: item[0] == FUSED):
        x = 4 + 192 * min(share, 1.0)
        kind = {FUSED: "fused", GATHER: "gather", DENSE: "dense"}.get(name, "also")
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="12" r="{5 if kind == "fused" else 4}"/>')
    return Markup(f'<svg class="dots" viewBox="0 0 200 24" aria-hidden="true">{"".join(parts)}</svg>')
