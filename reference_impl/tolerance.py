"""What "equal" means for two implementations of one op.

Truth is the reference run on the same inputs in a wider dtype. An implementation is close when its error against the
truth is at most twice that of PyTorch's own low-precision result on the same input, in the worst element and in RMS.
The rule scales itself with K, with the data and with the op, so that no number here has to be loosened for a shape.

Three choices, and why:

- Every error is divided by the largest exact value of its row (a row: everything behind the first axis). Rows are
  computed independently of each other. Were all of them measured in one unit, an outlier row would hide the wrong
  expert or the missing bias of every other one; measured by its own, each row is judged alike.
- PyTorch's error is pooled over all rows, not taken row by row: the largest of a few errors is a matter of luck, the
  largest of all of them is not. So float32, where the order of a sum decides, is not red by accident.
- PyTorch's error counts as half a unit roundoff at least, so a correctly rounded result is always close, also where
  PyTorch's happens to be exact (a row of zeros, a sum of one term).
- In float32 it counts as sqrt(K) times that. Half precision adds up in float32, which the order of a sum of K terms
  cannot disturb. float32 adds up in itself: one running sum errs by about 0.3 sqrt(K) roundoffs, the eight or sixteen
  running sums of a CPU's vector code by three times less, and both are right. (Higham and Mary, "A New Approach to
  Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41, 2019: sqrt(K) is what independent roundings give.)

What it finds: in bfloat16 an RMS error over one roundoff, 0.4 % of a value. Losing 64 of K = 18944 columns makes 5.8 %,
losing one of them 0.7 %. In float32 the limit at that K is 8e-6; multiplying in TF32 makes 3e-4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference_impl.contract import upcast

FACTOR = 2.0
"""How many times PyTorch's own error is allowed."""

UNIT_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half a unit in the last place of 1.0: the largest relative error of rounding once."""

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Closeness:
    """The outcome of one comparison. Every figure is an error divided by the largest exact value of its row.

    worst, rms              of the judged implementation against the truth; infinite if it is not finite where it must
    limit_worst, limit_rms  what was allowed
    ok                      both within, and NaN or infinite exactly where the truth, rounded to the dtype, is
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


def judge(actual: Tensor, reference: Tensor, exact: Tensor, terms: int = 1) -> Closeness:
    """Compare `actual` with `exact`, granting twice the error of `reference`.

    `terms` is K: how many products a value adds up. All three tensors have one shape [rows, ...]; actual and reference
    one dtype. Raises ValueError if they disagree. An empty result is equal. A reference that is not finite where the
    truth is grants nothing: the outcome is not ok.
    """
    if actual.shape != reference.shape or actual.shape != exact.shape or actual.dtype != reference.dtype:
        raise ValueError(
            f"cannot compare {tuple(actual.shape)} {actual.dtype} with {tuple(reference.shape)} {reference.dtype} "
            f"and truth {tuple(exact.shape)}; shapes and dtypes must agree"
        )
    if actual.numel() == 0:
        return Closeness(0.0, 0.0, 0.0, 0.0, True)
    # The truth overflows where its value in the result's dtype would: float16 ends at 65504.
    rounded = exact.to(actual.dtype)
    finite = rounded.isfinite()
    same = torch.where(finite, actual.isfinite(), (actual == rounded) | (actual.isnan() & rounded.isnan()))
    unit = UNIT_ROUNDOFF[actual.dtype] * (1.0 if actual.dtype in HALF else max(terms, 1) ** 0.5)
    scaled, scale = _scaled(exact, finite, actual.dtype)
    worst, rms = _size(_error(actual, exact, finite) / scale)
    own_worst, own_rms = _size(_error(reference, exact, finite) / scale)
    limit_worst = FACTOR * max(own_worst, unit / 2)
    limit_rms = FACTOR * max(own_rms, unit / 2 * _size(scaled)[1])
    within = worst <= limit_worst < math.inf and rms <= limit_rms < math.inf
    return Closeness(worst, rms, limit_worst, limit_rms, within and bool(same.all()))


def _scaled(exact: Tensor, finite: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The finite truth [rows, values] over its row's largest, and that largest [rows, 1], in float64."""
    values = torch.where(finite, exact.double(), 0.0).reshape(len(exact), -1)
    # A row of numbers below the dtype's normal range is spaced like the smallest normal one.
    scale = values.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(dtype).smallest_normal)
    return values / scale, scale


def _error(result: Tensor, exact: Tensor, finite: Tensor) -> Tensor:
    """result - exact [rows, values] in float64: 0 where the truth is not finite, else infinite if the result is not."""
    error = torch.where(finite, result.double() - exact.double(), 0.0).reshape(len(exact), -1)
    return error.nan_to_num_(nan=math.inf, posinf=math.inf, neginf=math.inf)


def _size(values: Tensor) -> tuple[float, float]:
    """The largest magnitude and the RMS."""
    return float(values.abs().max()), float(values.square().mean().sqrt())
