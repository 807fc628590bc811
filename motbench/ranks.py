"""The ranks that torchrun started for a command: the one place where its environment becomes a value."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

if typing.TYPE_CHECKING:
    import torch

    from reference_impl.parallel import Parallel

WAIT = timedelta(minutes=10)
"""How long a rank waits for the others; they need the longest when they read a checkpoint at different speeds."""


@contextmanager
def joined(mode: str, device: torch.device) -> Iterator[tuple[Parallel, torch.device]]:
    """This rank among those that torchrun started, and its own device; without torchrun, one rank alone.

    Ranks talk through NCCL on GPUs, one each, and through gloo on the CPU. Raises ValueError for an unknown mode and if
    this machine has fewer GPUs than ranks.
    """
    import torch
    import torch.distributed as dist

    from reference_impl.parallel import Parallel

    if not dist.is_torchelastic_launched():
        yield Parallel(mode=mode), device  # type: ignore[arg-type]
        return
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    parallel = Parallel(rank, size, mode)  # type: ignore[arg-type]
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"rank {local} of this machine has no GPU of its own, there are {torch.cuda.device_count()}; "
                "lower torchrun's --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=WAIT)
    try:
        yield parallel, device
    except BaseException:
        # gloo, if left open, may abort the process at its end. NCCL would wait for the others, and is left open.
        if backend == "gloo":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()
