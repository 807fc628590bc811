"""The step that every matrix kernel repeats: one block of products added to a running sum."""

from typing import Literal

import triton
import triton.language as tl

Accumulation = Literal["fast", "exact"]
"""How products of 8-bit floats are added up: by tensor cores alone, or in float32 at least every 128 values of K."""


@triton.jit
def add_product(total, lost, x, w, WIDEN: tl.constexpr):
    """total + x @ w in float32, and what rounding has taken from the sum so far.

    Half precision: the tensor cores' float32 sum is exact enough, and `lost` stays zero. float32: a single running sum
    of K = 18944 terms was measured at 1.3 times what is allowed beside cuBLAS's several sums (H100), so the steps are
    summed with Kahan's compensation. 8-bit floats are multiplied as they are or, if WIDEN, in float16, which holds them
    exactly and whose sums are exact enough.
    """
    if x.dtype == tl.float8e4nv and WIDEN:
        x = x.to(tl.float16)
        w = w.to(tl.float16)
    if x.dtype == tl.float32:
        step = tl.dot(x, w, input_precision="ieee") - lost
        longer = total + step
        lost = (longer - total) - step
        total = longer
    else:
        total = tl.dot(x, w, total)
    return total, lost
