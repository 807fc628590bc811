"""What one call makes the device do: every launch by name, grid and block, in order, as the profiler saw them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

KINDS = {"cuda": ("kernel", "gpu_memcpy", "gpu_memset"), "cpu": ("cpu_op",)}
"""Categories of the profiler's events that are work, by device."""


def launches(call: Callable[[], object], device: str) -> list[str]:
    """One line per launch of one call, after one that compiles and fills the allocator; on a CPU, PyTorch's ops.

    Empty if the profiler saw none: who cannot see the device's work knows nothing of it.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    def once() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize()

    once()
    with profile(activities=[ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA]) as seen:
        once()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    work = sorted((event for event in events if event.get("cat") in KINDS[device]), key=lambda event: event["ts"])
    return [_line(event["name"], event.get("args", {})) for event in work]


def digest(lines: list[str]) -> str:
    """12 hexadecimal digits of all launches; empty if there are none."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12] if lines else ""


def _line(name: str, told: dict[str, object]) -> str:
    return f"{name} grid {told.get('grid')} block {told.get('block')}"
