"""Pictures of a run folder, copied into the site under the hash of their content: equal pictures are stored once."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.records import write_atomic

HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
"""How every PNG begins; width and height follow."""


@dataclass(frozen=True)
class Picture:
    """One picture of the gallery: its path in the site, or why there is none. Sizes in pixels."""

    name: str
    path: str = ""
    width: int = 0
    height: int = 0
    missing: str = ""


def copy(run_folder: Path, name: str, relative: str | None, site: Path) -> Picture:
    """Copy one PNG of a run folder into `site`. A path that leaves the folder, or no PNG, is a missing picture."""
    if relative is None:
        return Picture(name, missing="not recorded")
    path = (run_folder / relative).resolve()
    if not path.is_relative_to(run_folder.resolve()):
        return Picture(name, missing="outside the run folder")
    if not (run_folder / "pictures").is_dir():
        return Picture(name, missing="pictures of this run were not kept")
    try:
        data = path.read_bytes()
    except OSError:
        return Picture(name, missing="file is missing")
    if not data.startswith(HEADER) or len(data) < 24:
        return Picture(name, missing="not a PNG file")
    width, height = struct.unpack(">II", data[16:24])
    kept = f"pictures/{hashlib.sha256(data).hexdigest()[:20]}.png"
    if not (site / kept).exists():
        write_atomic(site / kept, data)
    return Picture(name, kept, width, height)
