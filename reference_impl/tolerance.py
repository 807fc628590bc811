"""What "equal" means for two implementations of one op.

Truth is the reference run on the same inputs in a wider dtype. An implementation is close when its error against the
truth is at most twice that of PyTorch's own low-precision result on the same input, in the worst element and in RMS.
The rule scales itself with K, with the data and with the op, so that no number here has to be loosened for a shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference_impl.contract import upcast

FACTOR = 2.0
"""How many times PyTorch's own error is allowed."""

UNIT_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half a unit in the last place of 1.0. One roundoff of the truth is granted on top: PyTorch's own result may be exact
where another order of the same sums is not, e.g. for a row of one repeated value."""


@dataclass(frozen=True)
class Closeness:
    """The outcome of one comparison; every figure is an absolute error in the result's own unit, in float64.

    worst, rms              of the judged implementation against the truth
    limit_worst, limit_rms  what was allowed
    ok                      both within, and NaN or infinite exactly where the truth is
    """

    worst: float
    rms: float
    limit_worst: float
    limit_rms: float
    ok: bool


def truth_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, float64 for float32."""
    return torch.float64 if dtype in (torch.float32, torch.float64) else torch.float32


def truth(op: Callable[..., Any], *args: Any, dtype: torch.dtype) -> Any:
    """`op` (a reference op) on the same arguments in the dtype that is truth for `dtype`."""
    return op(*(upcast(arg, truth_dtype(dtype)) for arg in args))


def judge(actual: Tensor, reference: Tensor, exact: Tensor) -> Closeness:
    """Compare `actual` with `exact`, granting twice the error of `reference`.

    All three have one shape; actual and reference one dtype. Raises ValueError if they disagree. An empty result is
    equal.
    """
    if actual.shape != reference.shape or actual.shape != exact.shape or actual.dtype != reference.dtype:
        raise ValueError(
            f"cannot compare {tuple(actual.shape)} {actual.dtype} with {tuple(reference.shape)} {reference.dtype} "
            f"and truth {tuple(exact.shape)}; shapes and dtypes must agree"
        )
    if actual.numel() == 0:
        return Closeness(0.0, 0.0, 0.0, 0.0, True)
    exact64 = exact.double()
    finite = exact64.isfinite()
    same_special = bool((actual.double().isfinite() == finite).all())
    exact_finite = exact64[finite]
    error = (actual.double()[finite] - exact_finite).abs()
    own = (reference.double()[finite] - exact_finite).abs()
    roundoff = UNIT_ROUNDOFF[actual.dtype]
    limit_worst = FACTOR * _largest(own) + roundoff * _largest(exact_finite.abs())
    limit_rms = FACTOR * _rms(own) + roundoff * _rms(exact_finite)
    worst, rms = _largest(error), _rms(error)
    return Closeness(worst, rms, limit_worst, limit_rms, same_special and worst <= limit_worst and rms <= limit_rms)


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0
