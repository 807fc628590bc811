"""How long results are kept: records for ever, pictures of the newest runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.harness.records import Golden, read_lines
from reports.night import run_folders


def prune(results: Path, keep: int) -> list[Path]:
    """Remove the `pictures/` of every run but the newest `keep`; every record stays. Returns the folders removed.

    The newest run that had a golden failure keeps its pictures whatever its age: they are the evidence. Raises
    ValueError if `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep} but must be at least 1: the newest run's pictures are never removed")
    folders = run_folders(results)
    evidence = next((folder for folder in folders if _golden_failed(folder)), None)
    removed = []
    for folder in folders[keep:]:
        pictures = folder / "pictures"
        if folder != evidence and pictures.is_dir() and not pictures.is_symlink():
            shutil.rmtree(pictures)
            removed.append(pictures)
    return removed


def _golden_failed(folder: Path) -> bool:
    records, broken = read_lines(folder / "golden.jsonl", Golden)
    return broken > 0 or any(record.status != "pass" for record in records)
