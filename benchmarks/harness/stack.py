"""What decides how a known-good run rounds: the device, the attention that PyTorch may choose, and torch itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from benchmarks.harness import environment

BASE = "base"
"""Name of the limits that hold on every stack: the widest that any stack needs, with a margin."""


@dataclass(frozen=True)
class Stack:
    """One fingerprint that limits and goldens may belong to.

    device     a GPU's name, or the vector instructions that PyTorch uses of a CPU: its brand decides nothing
    attention  "sdpa" for PyTorch's own choice, else the kernels that are switched on
    torch      version, with the build
    """

    device: str
    attention: str
    torch: str

    @property
    def name(self) -> str:
        """The stack as a file name: cpu-avx2_sdpa_2.13.0+cpu."""
        return re.sub(r"[^a-z0-9_.+]+", "-", f"{self.device}_{self.attention}_{self.torch}".lower())


def here(device: torch.device) -> Stack:
    """The stack of this process on `device`."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"cpu {torch.backends.cpu.get_cpu_capability()}"
    kernels = ("flash", "mem_efficient", "cudnn", "math")
    enabled = {kernel: getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")() for kernel in kernels}
    chosen = "sdpa" if all(enabled.values()) else "sdpa " + " ".join(name for name, on in enabled.items() if on)
    return Stack(name, chosen, environment.here().torch)
