"""Where the kernels run, and what they refuse. Everything here is asked once per call, at the door."""

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from reference_impl.contract import Rows, require

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether Triton's decorator made interpreted functions of the kernels. It decides when a module is imported, so this
is read then, from Triton's own knob."""

INTERPRETER_DTYPES = (torch.float32, torch.float16)
"""bfloat16 is missing: the interpreter's `tl.dot` computes it wrongly without a word."""

GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

FIRST_CAPABILITY = (8, 0)
"""The oldest GPU that multiplies bfloat16 and copies to shared memory asynchronously."""

FP8_CAPABILITY = (8, 9)
"""The oldest GPU that multiplies 8-bit floats, and that Triton loads them on."""


def require_fp8(dtype: torch.dtype, device: torch.device) -> None:
    """Raise NotImplementedError unless kernels run for fp8 experts and results of `dtype` on `device`."""
    require(
        INTERPRETED or device.type != "cuda" or _capability(device) >= FP8_CAPABILITY,
        "mot_impl has no kernel for fp8 experts and {} on device {} of compute capability {}; it must be {} or newer: "
        "use int8 or dense experts",
        dtype,
        device,
        None if INTERPRETED or device.type != "cuda" else _capability(device),
        FP8_CAPABILITY,
        error=NotImplementedError,
    )


def require_supported(x: Rows, *tensors: Tensor) -> None:
    """Raise NotImplementedError unless kernels run for x's device and dtype, and no tensor needs a gradient."""
    if INTERPRETED:
        require(
            x.dtype in INTERPRETER_DTYPES,
            "mot_impl has no kernel for {} on device {} in Triton's interpreter, whose dot is right in float32 and "
            "float16 only; convert, or unset TRITON_INTERPRET on a GPU",
            x.dtype,
            x.device,
            error=NotImplementedError,
        )
    else:
        require(
            x.device.type == "cuda",
            "mot_impl has no kernel for {} on device {}; move to a CUDA GPU, or set TRITON_INTERPRET=1 before "
            "importing mot_impl",
            x.dtype,
            x.device,
            error=NotImplementedError,
        )
        require(
            x.dtype in GPU_DTYPES,
            "mot_impl has no kernel for {} on device {}; use float32, float16 or bfloat16",
            x.dtype,
            x.device,
            error=NotImplementedError,
        )
        capability = _capability(x.device)
        require(
            capability >= FIRST_CAPABILITY,
            "mot_impl has no kernel for {} on device {} of compute capability {}; it must be {} or newer",
            x.dtype,
            x.device,
            capability,
            FIRST_CAPABILITY,
            error=NotImplementedError,
        )
    require(
        not (
            torch.is_grad_enabled()
            and any(tensor.requires_grad for tensor in (x, *tensors) if isinstance(tensor, Tensor))
        ),
        "mot_impl has no backward pass for {} on device {}; call it under torch.inference_mode()",
        x.dtype,
        x.device,
        error=NotImplementedError,
    )


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def require_unit_stride(**tensors: Tensor | None) -> None:
    """Raise ValueError unless the last axis of each tensor is contiguous: the kernels take any other stride."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(
                f"{name} {tuple(tensor.shape)} has stride {tensor.stride(-1)} along its last axis but it must be 1; "
                f"call {name}.contiguous()"
            )


def launch(kernel: Any, n_programs: int, on: Tensor, *args: Any, **constants: Any) -> None:
    """Run `kernel` on the device of `on`, which need not be the current one. Nothing happens for no programs."""
    if n_programs:
        with torch.cuda.device_of(on):
            kernel[(n_programs,)](*args, **constants)
