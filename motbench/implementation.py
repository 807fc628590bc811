"""What `--impl`, `--tiles`, `--device` and `--dtype` mean: the one place where a command turns them into values."""

from __future__ import annotations

import os
import sys
import typing
from pathlib import Path

if typing.TYPE_CHECKING:
    import torch

    from mot_impl.tiles import TileTable
    from reference_impl.contract import Kind, MoTOps

DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
KINDS = ("fp8", "int8")


def resolve(impl: str, device: str, dtype: str, tiles: Path | None = None) -> tuple[MoTOps, torch.device, torch.dtype]:
    """The implementation, device and dtype that a command line names; `tiles` is a folder that fused asks first.

    Where fused has no tuned tiles for a GPU, that is said on stderr. Raises ValueError for a name that is unknown, for
    tiles that nothing reads or that are none, and for a GPU that is not there; OSError for a folder that is not.
    """
    place, precision = place_of(device, dtype, interprets=impl != "reference")

    from benchmarks.harness.impls import FUSED, load_impl

    ops = load_impl(impl, tiles)
    if impl == FUSED:
        say_if_untuned(place, precision, tiles)
    return ops, place, precision


def place_of(device: str, dtype: str, interprets: bool = True) -> tuple[torch.device, torch.dtype]:
    """The device and dtype that a command line names.

    On a CPU, kernels run in Triton's interpreter, which must be chosen before they are imported; and float32 means IEEE
    float32, so TF32 is switched off. Both are settings of this process. Raises ValueError for a name that is unknown
    and for a GPU that is not there.
    """
    if device not in DEVICES:
        raise ValueError(f"device {device!r} is unknown; use one of {', '.join(DEVICES)}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    if device == "cpu" and interprets:
        os.environ["TRITON_INTERPRET"] = "1"

    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device cuda is needed but torch sees no GPU; use --device cpu if this command has it, "
            "or else a machine with a GPU and a CUDA build of torch"
        )
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(device), getattr(torch, dtype)


def kind_named(quantise: str | None) -> Kind | None:
    """The kind that `--quantise` names, None for none. Raises ValueError for one that is unknown."""
    if quantise not in (None, *KINDS):
        raise ValueError(f"kind {quantise!r} is unknown; quantise to one of {', '.join(KINDS)}")
    return quantise  # type: ignore[return-value]


def say_if_untuned(device: torch.device, dtype: torch.dtype, folder: Path | None = None) -> None:
    """One line on stderr if the tiles on this GPU come from the heuristic only."""
    if device.type == "cuda":
        import torch

        from mot_impl.tiles import TileTable

        if told := untuned(TileTable.load(folder), torch.cuda.get_device_name(device), dtype):
            print(f"motbench: {told}", file=sys.stderr)


def untuned(table: TileTable, device: str, dtype: torch.dtype) -> str:
    """What to say where `table` has no tiles for a device and dtype; empty where it has, and for float32, which has no
    tuned tiles anywhere."""
    from mot_impl.tiles import file_name

    name = str(dtype).removeprefix("torch.")
    if name == "float32" or table.knows(file_name(device), dtype):
        return ""
    cure = f"motbench tune --model bagel-7b --dtype {name}"
    return f"no tile was tuned for {device} in {name}: tiles come from the heuristic; to measure them: {cure}"


def one_thread_on_a_cpu(device: torch.device | None = None) -> None:
    """One thread of this process if `device` is a CPU; without a device, if torch sees no GPU.

    The order of a sum must not depend on how many cores a machine has; and small cases in Triton's interpreter are ten
    times faster, since threads wait for each other longer than they compute.
    """
    import torch

    if device.type == "cpu" if device else not torch.cuda.is_available():
        torch.set_num_threads(1)
