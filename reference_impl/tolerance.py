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

Quantised experts, and rows in fp8. What is stored is known exactly, so the truth is computed from what it stands for
(`contract.upcast`), and an op that takes it is as close to it as a dense one: the rounding of the result, not the 3.7 %
that quantising costs. That cost is the reference's error against the unquantised op, a figure of its own.

- An op that makes QuantisedRows (`judge_quantised`) may give other codes than the reference and be right: where the
  norm before it lies a rounding of its dtype beside a boundary between two codes, the next code is as good, though it
  is a whole step (6 to 12 %) away. So codes are never compared with codes. A code is right if it is the nearest one to
  the exact value over its row's scale; what it is further away than half a step is its error, and the rule above holds
  for that: the reference has such errors too, of at most the rounding of the norm. Scales are judged as values are.
- An op that quantises on its way (a linear op of fp8 experts given unquantised rows, gated_mlp) multiplies such flips
  by weights. Its truth is without them, so PyTorch's error is that of quantising, and the rule is as loose as that.
  The ops that it is made of are each judged tightly.
- The sums of fp8 tensor cores are not float32 unless the implementation promotes them ("exact"). With "fast" ones,
  give `judge` as reference PyTorch's result with that accumulation, `torch._scaled_mm(..., use_fast_accum=True)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference_impl.contract import FP8_MAX, QuantisedRows, Rows, upcast
from reference_impl.quantise import absmax_scale

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


EQUAL = Closeness(0.0, 0.0, 0.0, 0.0, True)
"""Of two empty results."""


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
    _require_alike(actual, reference, exact)
    if actual.numel() == 0:
        return EQUAL
    finite, same = _where_finite(actual, exact)
    scaled, scale = _scaled(exact, finite, actual.dtype)
    mine, own = (_error(result, exact, finite) / scale for result in (actual, reference))
    return _closeness(mine, own, scaled, _unit(actual.dtype, terms), same)


def judge_quantised(
    actual: QuantisedRows, reference: QuantisedRows, exact: Tensor, exact_scale: Tensor | None = None
) -> Closeness:
    """Compare rows in fp8 with `exact` [M, K], what they were quantised from in a wider dtype; see the module's words.

    exact_scale [M]: the experts' fixed scale of each row; None: every row has its own. A row whose truth is not finite
    somewhere must be NaN there, and nothing else of it is looked at. Returns what is found of the codes or of the
    scales, whichever comes closer to its limit. Raises ValueError on shapes or dtypes that disagree.
    """
    _require_alike(actual, reference, exact)
    if exact.numel() == 0:
        return EQUAL
    finite = exact.to(actual.dtype).isfinite()
    same = finite | upcast(actual, torch.float64).isnan()
    clean = finite.all(1, keepdim=True)
    exact = torch.where(clean, exact.double(), 1.0)
    wanted = absmax_scale(exact, FP8_MAX) if exact_scale is None else exact_scale.double()
    unit = _unit(actual.dtype, exact.shape[1])
    scaled, largest = _scaled(exact, clean.expand_as(exact), actual.dtype)

    def of_codes(one: QuantisedRows) -> Tensor:
        return _infinite_if_nan(torch.where(clean, _beyond_half_a_step(one, exact), 0.0) / largest)

    def of_scales(one: QuantisedRows) -> Tensor:
        return _infinite_if_nan(torch.where(clean, (one.scale / wanted - 1)[:, None], 0.0))

    codes = _closeness(of_codes(actual), of_codes(reference), scaled, unit, same)
    scales = _closeness(of_scales(actual), of_scales(reference), torch.ones_like(wanted), unit, same)
    return min(codes, scales, key=lambda one: (one.ok, one.limit_rms - one.rms))


def _require_alike(actual: Rows, reference: Rows, exact: Tensor) -> None:
    if actual.shape != reference.shape or actual.shape != exact.shape or actual.dtype != reference.dtype:
        raise ValueError(
            f"cannot compare {tuple(actual.shape)} {actual.dtype} with {tuple(reference.shape)} {reference.dtype} "
            f"and truth {tuple(exact.shape)}; shapes and dtypes must agree"
        )


def _beyond_half_a_step(quantised: QuantisedRows, exact: Tensor) -> Tensor:
    """By how much each value is further from `exact` than a nearest code would be. float64, in the units of `exact`."""
    scale = quantised.scale.double()[:, None]
    wanted = (exact / scale).clamp(-FP8_MAX, FP8_MAX)
    # e4m3 has three bits behind the leading one, and below 2^-6 the step that it has there.
    exponent = torch.frexp(wanted.abs().clamp(min=2.0**-6)).exponent - 1
    half = torch.ldexp(torch.ones_like(wanted), exponent - 4)
    return ((quantised.values.double() - wanted).abs() - half).clamp(min=0) * scale


def _unit(dtype: torch.dtype, terms: int) -> float:
    """The unit roundoff, with the order of a sum in it where that matters."""
    return UNIT_ROUNDOFF[dtype] * (1.0 if dtype in HALF else max(terms, 1) ** 0.5)


def _where_finite(actual: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Where the truth is finite, and where `actual` is finite, infinite and NaN as the truth is."""
    # The truth overflows where its value in the result's dtype would: float16 ends at 65504.
    rounded = exact.to(actual.dtype)
    finite = rounded.isfinite()
    return finite, torch.where(finite, actual.isfinite(), (actual == rounded) | (actual.isnan() & rounded.isnan()))


def _closeness(error: Tensor, own: Tensor, scaled: Tensor, unit: float, same: Tensor) -> Closeness:
    """The rule: at most twice PyTorch's `own` error, which counts as half a unit roundoff at least."""
    worst, rms = _size(error)
    own_worst, own_rms = _size(own)
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
    return _infinite_if_nan(torch.where(finite, result.double() - exact.double(), 0.0).reshape(len(exact), -1))


def _infinite_if_nan(error: Tensor) -> Tensor:
    return error.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)


def _size(values: Tensor) -> tuple[float, float]:
    """The largest magnitude and the RMS."""
    return float(values.abs().max()), float(values.square().mean().sqrt())
