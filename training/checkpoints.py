"""Which checkpoint was scored: the sha256 of its files and, of a quantised folder, of those that it was made from."""

import hashlib
import json
from pathlib import Path
from typing import Any

from bagel.quantise import MANIFEST

INDEX = ".index.json"
"""Ends the names of files that `motbench quantise` writes anew, since they say where each tensor lies."""


def described(checkpoint: Path) -> dict[str, Any]:
    """For a record: `checkpoint`, file by file; and `quantised`, its kind and sources, if the folder says that it is.

    Raises OSError, or ValueError for a quantisation.json that lacks them.
    """
    files = {path.name: _sha256(path) for path in sorted(checkpoint.iterdir())}
    if MANIFEST not in files:
        return {"checkpoint": files}
    try:
        said = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return {"checkpoint": files, "quantised": {"kind": str(said["kind"]), "sources": dict(said["sources"])}}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{checkpoint / MANIFEST} lacks kind or sources; make it with: motbench quantise") from error


def same_origin(first: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records are of the same files, or of quantised ones that were made from the other's or the same."""
    if first["checkpoint"] == other["checkpoint"]:
        return True
    return ("quantised" in first or "quantised" in other) and _origin(first) == _origin(other)


def _origin(record: dict[str, Any]) -> dict[str, str]:
    """The files before they were quantised, without indices."""
    sources = record.get("quantised", {}).get("sources", {})
    files = record["checkpoint"] | sources
    return {name: sha for name, sha in files.items() if name != MANIFEST and not name.endswith(INDEX)}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
