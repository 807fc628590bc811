"""asv's own result files, version 2, read without asv.

`<machine>/<first 8 of the commit>-<environment>.json` holds rows under `result_columns`; trailing nulls are
dropped, values are lists over the product of the parameters, null means failed and NaN skipped. Names of parameters and
units are in `benchmarks.json` beside the machines. Source: asv 0.6 `asv/results.py`, `Results.save`.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness.records import SchemaError

VERSION = 2


@dataclass(frozen=True)
class Number:
    """What asv stored for one series at one commit. `value` is in `unit`, and None unless the state is measured.

    samples   of all processes together, as asv keeps them; empty for what is not a time
    protocol  of the measurement (harness/clock.py); 0 if the file does not say
    """

    benchmark: str
    params: dict[str, str]
    state: Literal["measured", "failed", "skipped"]
    value: float | None
    unit: str
    machine: str
    started: datetime | None
    commit: str
    samples: list[float]
    protocol: int


def read(folder: Path, commit: str) -> tuple[list[Number], list[str]]:
    """Every number of `commit` under an asv results folder, and one line per file that could not be read.

    Raises SchemaError for a result file of another version.
    """
    damage: list[str] = []
    described = _described(folder, damage)
    paths = sorted(folder.glob(f"*/{commit[:8]}*-*.json"))
    return [one for path in paths for one in _file(path, described, damage) if one.commit == commit], damage


def every(folder: Path, commits: Container[str], damage: list[str]) -> Iterator[Number]:
    """Every number of these commits, machine by machine; `damage` gets a line per file that could not be read.

    Raises SchemaError for a result file of another version.
    """
    described = _described(folder, damage)
    for path in sorted(folder.glob("*/*-*.json")):
        yield from (one for one in _file(path, described, damage) if one.commit in commits)


def _file(path: Path, described: dict[str, Any], damage: list[str]) -> list[Number]:
    try:
        data = json.loads(path.read_text())
        if data.get("version") != VERSION:
            raise SchemaError(f"{path}: asv result version {data.get('version')} is not {VERSION}; use asv 0.6")
        return list(_numbers(data, described, path.parent.name))
    except SchemaError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError) as error:
        damage.append(f"asv/{path.parent.name}/{path.name} cannot be read: {error}")
        return []


def _described(folder: Path, damage: list[str]) -> dict[str, Any]:
    path = folder / "benchmarks.json"
    if not path.exists():
        return {}
    try:
        return {name: value for name, value in json.loads(path.read_text()).items() if isinstance(value, dict)}
    except (ValueError, AttributeError, OSError) as error:
        damage.append(f"asv/benchmarks.json cannot be read: {error}")
        return {}


def _numbers(data: dict[str, Any], described: dict[str, Any], machine: str) -> list[Number]:
    numbers = []
    for benchmark, cells in data["results"].items():
        row = dict(zip(data["result_columns"], cells, strict=False))
        axes = row.get("params") or []
        about = described.get(benchmark, {})
        names = about.get("param_names") or [f"param{i + 1}" for i in range(len(axes))]
        points = list(itertools.product(*axes))
        values = row.get("result") or [None] * len(points)
        samples = row.get("samples") or [None] * len(points)
        version = str(row.get("version", "")).removeprefix("protocol ")
        milliseconds = row.get("started_at")
        started = None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
        for point, value, taken in zip(points, values, samples, strict=True):
            params = dict(zip(names, map(_plain, point), strict=True))
            state: Literal["measured", "failed", "skipped"] = "measured"
            if not isinstance(value, int | float):
                state, value = "failed", None
            elif math.isnan(value):
                state, value = "skipped", None
            unit = str(about.get("unit", ""))
            protocol = int(version) if version.isdigit() else 0
            commit = data["commit_hash"]
            numbers.append(
                Number(benchmark, params, state, value, unit, machine, started, commit, taken or [], protocol)
            )
    return numbers


def _plain(parameter: str) -> str:
    """asv stores repr(parameter): `"'fused'"` is the text fused."""
    try:
        return str(ast.literal_eval(parameter))
    except (ValueError, SyntaxError):
        return parameter
