"""The driver's own account of the current GPU, through nvidia-ml-py (the extra `gpu`)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any


def opened() -> tuple[Any, Any] | None:
    """The library and the current CUDA device's handle; None without the package or an answer of the driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    import torch

    try:
        nvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        return nvml, nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    except (nvml.NVMLError, AttributeError):  # no driver, no permission, or a torch that does not know the device's id
        return None


def others() -> list[str] | None:
    """Other processes that compute on the current device, as `pid 4711 (python)`; None if that cannot be seen.

    This process must hold a context there: a list without it would hide others too. Its ancestors are its own: whoever
    started it may have looked at the device before.
    """
    found = opened()
    if found is None:
        return None
    nvml, handle = found
    try:
        pids = [one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    except nvml.NVMLError:
        return None
    known = strangers(pids, family())
    return None if known is None else [f"pid {pid} ({_name(nvml, pid)})" for pid in known]


def strangers(pids: Collection[int], mine: Collection[int]) -> list[int] | None:
    """The processes that are not mine; None if none is listed. Inside a container the driver may count processes in
    another way than this one does: then one of them is this process, and which one cannot be told.
    """
    if not pids:
        return None
    left = sorted(set(pids) - set(mine))
    return left if len(left) < len(set(pids)) else left[1:]


def family() -> list[int]:
    """This process and those that started it."""
    pids = [os.getpid()]
    while (parent := _parent(pids[-1])) > 0:
        pids.append(parent)
    return pids


def _parent(pid: int) -> int:
    try:
        # The second field is the name in brackets, and may hold anything: what follows it is read.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _name(nvml: Any, pid: int) -> str:
    try:
        name = nvml.nvmlSystemGetProcessName(pid)
    except nvml.NVMLError:
        return "unknown"
    return Path(name.decode(errors="replace") if isinstance(name, bytes) else str(name)).name
