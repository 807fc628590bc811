"""A verdict on one screen, with what must be typed before the lines to type work in this shell."""

from __future__ import annotations

import os
import shlex
import sys
import typing
from pathlib import Path

if typing.TYPE_CHECKING:
    from reports.verdict import Verdict


def text(verdict: Verdict) -> str:
    """reports.verdict.summary_text, and how to activate this Python's environment where there is a line to type."""
    from reports.verdict import summary_text

    told = summary_text(verdict)
    first = activation() if "\n      type: " in told else ""
    return f"{told}\n{first}" if first else told


def activation() -> str:
    """One line that puts `motbench`, `python` and `asv` on the path; empty if they are, or come from no .venv."""
    folder = Path(sys.prefix) / "bin"
    there = {Path(entry).resolve() for entry in os.environ.get("PATH", "").split(os.pathsep) if entry}
    if sys.prefix == sys.base_prefix or folder.resolve() in there or not (folder / "activate").is_file():
        return ""
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f"first: . {shlex.quote(str(shown / 'activate'))}"
