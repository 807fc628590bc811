"""What `--impl`, `--tiles`, `--device` and `--dtype` mean: the one place where a command turns them into values."""

from __future__ import annotations

import os
import typing
from pathlib import Path

if typing.TYPE_CHECKING:
    import torch

    from reference_impl.contract import MoTOps

DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")


def resolve(impl: str, device: str, dtype: str, tiles: Path | None = None) -> tuple[MoTOps, torch.device, torch.dtype]:
    """The implementation, device and dtype that a command line names; `tiles` is a folder that fused asks first.

    On a CPU, kernels run in Triton's interpreter, which must be chosen before they are imported; and float32 means IEEE
    float32, so TF32 is switched off. Both are settings of this process. Raises ValueError for a name that is unknown,
    for tiles that nothing reads or that are none, and for a GPU that is not there; OSError for a folder that is not.
    """
    if device not in DEVICES:
        raise ValueError(f"device {device!r} is unknown; use one of {', '.join(DEVICES)}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    if device == "cpu" and impl != "reference":
        os.environ["TRITON_INTERPRET"] = "1"

    import torch

    from benchmarks.harness.impls import load_impl

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for but torch sees no GPU; use --device cpu, or a CUDA build of torch")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return load_impl(impl, tiles), torch.device(device), getattr(torch, dtype)


def one_thread_on_a_cpu(device: torch.device | None = None) -> None:
    """One thread of this process if `device` is a CPU; without a device, if torch sees no GPU.

    The order of a sum must not depend on how many cores a machine has; and small cases in Triton's interpreter are ten
    times faster, since threads wait for each other longer than they compute.
    """
    import torch

    if device.type == "cpu" if device else not torch.cuda.is_available():
        torch.set_num_threads(1)
