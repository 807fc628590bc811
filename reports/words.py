"""Numbers as people read them."""

from __future__ import annotations

import math


def seconds(value: float) -> str:
    """Three digits and a unit: 12.3 µs."""
    if not math.isfinite(value):
        return "no number"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} s"


def number(value: float) -> str:
    """Four digits, six just under 1, where similarities live; NaN is how a missing number is read back."""
    if math.isnan(value):
        return "no number"
    return f"{value:.6f}" if 0.99 < value < 1 else f"{value:.4g}"


def mebibytes(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / 2**20:,.0f} MiB"


def percent(value: float) -> str:
    """A share of a limit: 42 %; tiny ones keep a digit."""
    if math.isnan(value):
        return "no number"
    if math.isinf(value):
        return "no limit allows it"
    return f"{value:.0%}" if value >= 0.0995 or value == 0 else f"{value:.1%}"


def change(value: float) -> str:
    """A relative change: +1.2 %; what is beyond a factor of ten is said in words, and NaN is nothing."""
    if math.isnan(value):
        return ""
    return f"{value:+.1%}" if value < 9 else "over +900%"


def ratio(reference: float, other: float) -> str:
    """How many times faster or slower than the reference."""
    factor = reference / other
    return f"{factor:.2f}× faster" if factor >= 1 else f"{1 / factor:.2f}× slower"
