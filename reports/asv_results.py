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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness.records import SchemaError

VERSION = 2


@dataclass(frozen=True)
class Number:
    """What asv stored for one series at one commit. `value` is in `unit`, and None unless the state is measured."""

    benchmark: str
    params: dict[str, str]
    state: Literal["measured", "failed", "skipped"]
    value: float | None
    unit: str
    machine: str
    started: datetime | None


def read(folder: Path, commit: str) -> tuple[list[Number], list[str]]:
    """Every number of `commit` under an asv results folder, and one line per file that could not be read.

    Raises SchemaError for a result file of another version.
    """
    numbers: list[Number] = []
    damage: list[str] = []
    described = _described(folder, damage)
    for path in sorted(folder.glob(f"*/{commit[:8]}*-*.json")):
        try:
            data = json.loads(path.read_text())
            if data.get("version") != VERSION:
                raise SchemaError(f"{path}: asv result version {data.get('version')} is not {VERSION}; use asv 0.6")
            if data["commit_hash"] == commit:
                numbers.extend(_numbers(data, described, path.parent.name))
        except SchemaError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError) as error:
            damage.append(f"asv/{path.parent.name}/{path.name} cannot be read: {error}")
    return numbers, damage


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
        milliseconds = row.get("started_at")
        started = None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
        for point, value in zip(points, values, strict=True):
            params = dict(zip(names, map(_plain, point), strict=True))
            state: Literal["measured", "failed", "skipped"] = "measured"
            if not isinstance(value, int | float):
                state, value = "failed", None
            elif math.isnan(value):
                state, value = "skipped", None
            unit = str(about.get("unit", ""))
            numbers.append(Number(benchmark, params, state, value, unit, machine, started))
    return numbers


def _plain(parameter: str) -> str:
    """asv stores repr(parameter): `"'fused'"` is the text fused."""
    try:
        return str(ast.literal_eval(parameter))
    except (ValueError, SyntaxError):
        return parameter
