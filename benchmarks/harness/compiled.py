"""Which kernels a process compiled, told by Triton itself: one hash of them all, and how long compiling took.

The hash is of the PTX without what only says where in the source a line came from: it is the same at two commits if
and only if Triton made the same code of them, whatever was renamed, moved or commented in between. Two commits with
the same hash and different times differ by something else than the kernel.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_DEBUG = re.compile(r"^[ \t]*\.section\s+\.debug\w*\s*\{.*?^\s*\}\n?", re.DOTALL | re.MULTILINE)
_LINES = re.compile(r"^\s*(//.*|\.loc\b.*|\.file\b.*|\$L__(tmp|func_begin|func_end)\d+:)$\n?|\s*//.*$", re.MULTILINE)


@dataclass
class Compiled:
    """What was compiled, or found compiled, since `listen`. kernels: name -> hash of its code, by specialisation."""

    kernels: dict[tuple[str, str], str] = field(default_factory=dict)
    compiled: int = 0
    seconds: float = 0.0

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of all kernels; empty if there are none."""
        codes = "\n".join(sorted(set(self.kernels.values())))
        return hashlib.sha256(codes.encode()).hexdigest()[:12] if codes else ""

    def heard(self, metadata_group: dict[str, str], metadata: dict[str, Any], seconds: float, cached: bool) -> None:
        """Take note of one kernel, from the files that Triton keeps of it."""
        for name, path in metadata_group.items():
            if name.endswith(".ptx"):
                self.kernels[name, str(metadata.get("hash", path))] = code_hash(Path(path).read_text())
        if not cached:
            self.compiled += 1
            self.seconds += seconds


def listen() -> Compiled:
    """Hear of every kernel from now on; whoever listened before hears of them still.

    Nothing is ever heard where Triton is missing or interprets.
    """
    made = Compiled()
    try:
        from triton import knobs
    except ImportError:
        return made
    before: Callable[..., None] | None = knobs.compilation.listener

    def listener(**told: Any) -> None:
        made.heard(told["metadata_group"], told["metadata"], told["times"].total * 1e-6, told["cache_hit"])
        if before is not None:
            before(**told)

    knobs.compilation.listener = listener
    return made


def code_hash(ptx: str) -> str:
    """Of the instructions alone."""
    return hashlib.sha256(_LINES.sub("", _DEBUG.sub("", ptx)).encode()).hexdigest()
