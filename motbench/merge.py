"""`motbench merge FOLDER...`: results of several machines in one folder. Nothing is overwritten by something else."""

from __future__ import annotations

import json
import shutil
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import typer

COPIED = ("runs", "asv-records", "comparisons")
"""Folders whose entries have names that begin with a time: the same name is the same entry."""

RECORDS = ("roofline", "step", "pictures", "serving")
"""Folders of single records, each one file, in folders or not, whose names may say nothing of when they were made."""


def merge(
    folders: typing.Annotated[list[Path], typer.Argument(help="results folders of other machines")],
    results: typing.Annotated[Path, typer.Option(help="the folder that they are merged into")] = Path("results"),
) -> None:
    """Copy what RESULTS lacks from other results folders: runs, records, comparisons and asv's results.

    Machines stay apart: every record carries the fingerprint of where it was made, and trend and report never compare
    two of them. Type it again at any time: what is there already is left alone.
    """
    from motbench.nightly import only_one

    for folder in folders:
        _require(folder.resolve())
    with only_one(results.resolve()):
        for folder in folders:
            print(f"{folder}: {_counted(into(results.resolve(), folder.resolve()))}")


def into(results: Path, folder: Path) -> Counter[str]:
    """How many entries of each kind were new.

    Raises ValueError for a folder that is no results folder, and for two different records of one name.
    """
    _require(folder)
    new: Counter[str] = Counter()
    for name in COPIED:
        for entry in sorted((folder / name).glob("[!.]*")):
            new[name] += _copied(entry, results / name / entry.name)
    for name in RECORDS:
        for path in sorted((folder / name).rglob("[!.]*.json")):
            new[f"{name} records"] += _added(path, results / path.relative_to(folder))
    for path in sorted((folder / "asv").glob("*/*.json")):
        new["asv results"] += _joined(path, results / "asv" / path.parent.name / path.name)
    described = folder / "asv" / "benchmarks.json"
    if described.exists():
        _joined(described, results / "asv" / "benchmarks.json")
    return new


def _require(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}; give a results folder")
    known = (*COPIED, *RECORDS, "asv")
    if not any((folder / name).is_dir() for name in known):
        raise ValueError(f"{folder} holds none of {', '.join(known)}; give a results folder")


def _added(path: Path, target: Path) -> bool:
    """Copy one record. Records of two machines may have been given one name: neither is lost in silence."""
    from benchmarks.harness.records import write_atomic

    theirs = path.read_bytes()
    if not target.exists():
        write_atomic(target, theirs)
        return True
    if target.read_bytes() != theirs:
        raise ValueError(f"{path} and {target} differ; rename one of them and merge again")
    return False


def _copied(entry: Path, target: Path) -> bool:
    """Copy a folder to a temporary name first: whoever reads meanwhile sees all of it or nothing."""
    if target.exists() or not entry.is_dir():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(entry, partial, symlinks=True)
    partial.rename(target)
    return True


def _joined(path: Path, target: Path) -> bool:
    """One of asv's files: of two with the same name, the union; where both have a benchmark, what was started last."""
    from benchmarks.harness.records import write_atomic

    theirs = _read(path)
    if not target.exists():
        write_atomic(target, path.read_bytes())
        return True
    ours = _read(target)
    if "results" in theirs and "results" in ours:
        columns = theirs.get("result_columns", [])
        if columns != ours.get("result_columns"):
            raise ValueError(f"{path} and {target} have different columns; merge with the asv that wrote them")
        joined = ours | {"results": _newest(ours["results"], theirs["results"], columns)}
    else:
        joined = theirs | ours
    if joined == ours:
        return False
    write_atomic(target, json.dumps(joined, indent=1).encode())
    return True


def _newest(ours: dict[str, list[Any]], theirs: dict[str, list[Any]], columns: list[str]) -> dict[str, list[Any]]:
    def started(row: list[Any]) -> float:
        found = dict(zip(columns, row, strict=False)).get("started_at")
        return float(found) if isinstance(found, int | float) else 0.0

    return theirs | {
        name: row for name, row in ours.items() if name not in theirs or started(row) >= started(theirs[name])
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; delete it and measure again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, but asv writes an object; delete it and measure again")
    return found


def _counted(new: Counter[str]) -> str:
    said = [f"{n} {name}" for name, n in new.items() if n]
    return f"{', '.join(said)} new" if said else "nothing new"
