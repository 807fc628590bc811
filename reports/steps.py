"""Where a series stepped: a forward scan, as a nightly job sees it, that never takes back what it has said.

A point is one commit's figure: the mean logarithm of its processes, so that a step of 3 % is 0.03 at any level. Points
arrive in the order of commits. When one arrives, every way to cut the newest NEWEST points off the current segment is
tried; the cut with the smallest p of Student's t becomes a step if that p is at most `level` and the step matters. The
noise of all segments is pooled: it is the machine's, not the segment's.

    0.0  0.0  0.0  0.0  0.0  0.0  3.1  2.9        two points after the cut, both beyond what matters: a step at 6

One point alone is never a step, and at least half of those behind a cut must lie beyond what matters: one bad night
moves a mean, but not a median. Nights that resemble their neighbours (a machine that is busy for a while) say less than
independent ones: the error grows with their serial correlation, as for an autoregressive series of first order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEVEL = 2e-5
"""Two-sided p at which a step is certain, from the history alone. The self-test (reports/trend_selftest.py) says what
false alarms that makes; on a machine whose nights depend on each other it is what keeps them rare."""
SUSPICION = 0.01
"""p at which the newest points are worth a paired comparison, which then decides; never a step by itself."""
LEAST = 5
"""Points of a segment before it can end: fewer do not say what its level is."""
AFTER = 2
"""Points after a cut, at least."""
NEWEST = 12
"""Points after a cut, at most: who waits longer has been passed by the scan already."""
CORRELATED = 0.8
"""Serial correlation that is believed, at most."""
DOUBT = 3.84
"""Cuts whose likelihood-ratio statistic is within this of the best are as good: 95 % of one degree of freedom."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """A step between two points, as logarithms.

    at           index of the first point after it, in the order given
    first, last  the cuts that the data cannot tell from `at`: the step lies between points first - 1 and last
    seen         index of the point that decided it
    shift        mean after minus mean before; error is its standard error, serial correlation included
    p            of Student's t, two-sided
    """

    at: int
    first: int
    last: int
    seen: int
    shift: float
    error: float
    freedom: float
    p: float


def scan(points: Sequence[float], matters: float) -> Iterator[Step]:
    """The best cut of each night on which there is one worth a look, certain or not.

    Worth a look: p is at most SUSPICION if nights are independent. A cut that is certain, p at most LEVEL with serial
    correlation, ends its segment. matters: the smallest change, a fraction, that is one. Raises ValueError for a point
    that is not finite.
    """
    values = np.asarray(points, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"point {int(np.argmin(np.isfinite(values)))} is not a finite number; leave it out")
    values = values - (values.mean() if len(values) else 0.0)
    start, pool = 0, _Pool(0.0, 0)
    for end in range(LEAST + AFTER, len(values) + 1):
        step = _best_cut(values[start:end], start, math.log1p(matters), pool)
        if step is None:
            continue
        yield step
        if step.p <= LEVEL:
            segment = values[start : step.at]
            pool = _Pool(pool.squares + len(segment) * float(segment.var()), pool.freedom + len(segment) - 1)
            start = step.at


def steps(points: Sequence[float], matters: float) -> list[Step]:
    """Every step that is certain, in order; where it is and how large, as all points up to the next one say."""
    values = np.asarray(points, dtype=np.float64)
    found = [step for step in scan(points, matters) if step.p <= LEVEL]
    start, refined = 0, []
    for i, step in enumerate(found):
        end = found[i + 1].at if i + 1 < len(found) else len(values)
        refined.append(_refined(step, values[start:end], start))
        start = refined[-1].at
    return refined


def suspicion(points: Sequence[float], matters: float) -> Step | None:
    """The best cut on the last night, if it is worth a look and no step yet."""
    last = next((step for step in scan(points, matters) if step.seen == len(points) - 1), None)
    return last if last is not None and last.p > LEVEL else None


@dataclass(frozen=True)
class _Pool:
    """Squares and degrees of freedom of the noise in segments that have ended."""

    squares: float
    freedom: int


def _best_cut(segment: Floats, start: int, smallest: float, pool: _Pool) -> Step | None:
    """The cut of the segment, which starts at index `start`, with the smallest p among those whose step matters."""
    n = len(segment)
    after = np.arange(AFTER, min(NEWEST, n - LEAST) + 1)
    if not len(after):
        return None
    before = n - after
    losses, shifts = _losses(segment)
    loss, shift = losses[before - 1], shifts[before - 1]
    freedom = pool.freedom + n - 2
    error = np.sqrt((pool.squares + loss) / freedom * (1 / before + 1 / after))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(error > 0, 2 * special.stdtr(freedom, -np.abs(shift) / error), 0.0)
    for i in np.argsort(p):
        if p[i] > SUSPICION:
            return None
        behind = np.sort((segment[before[i] :] - segment[: before[i]].mean()) * np.sign(shift[i]))
        if min(abs(shift[i]), behind[(after[i] - 1) // 2]) > smallest:
            as_good = losses - loss[i] <= DOUBT * (pool.squares + loss[i]) / freedom
            first, last = _run(as_good, int(before[i]) - 1)
            at = start + int(before[i])
            size, wide = float(shift[i]), float(error[i]) * _widened(segment, int(before[i]))
            certainty = 2 * float(special.stdtr(freedom, -abs(size) / wide)) if wide else 0.0
            return Step(at, start + first + 1, start + last + 1, start + n - 1, size, wide, freedom, certainty)
    return None


def _refined(step: Step, segment: Floats, start: int) -> Step:
    """The same step, from all points on both sides of it; it moves among the cuts that could not be told apart."""
    losses, shifts = _losses(segment - segment.mean())
    near = np.arange(max(step.first - start, 1), min(step.last - start, len(losses)) + 1) - 1
    best = int(near[np.argmin(losses[near])])
    cut, n = best + 1, len(segment)
    variance = losses[best] / max(n - 2, 1)
    error = math.sqrt(variance * (1 / cut + 1 / (n - cut))) * _widened(segment, cut)
    first, last = _run(losses - losses[best] <= DOUBT * variance, best)
    place = {"at": start + cut, "first": start + first + 1, "last": start + last + 1}
    return replace(step, **place, shift=float(shifts[best]), error=error, freedom=n - 2)


def _losses(segment: Floats) -> tuple[Floats, Floats]:
    """For every cut 1 .. n-1 of the segment: the squares that are left, and mean after minus mean before."""
    n, sums = len(segment), np.cumsum(segment)
    left = np.arange(1, n)
    before, behind = sums[:-1] / left, (sums[-1] - sums[:-1]) / (n - left)
    squares = float((segment**2).sum()) - left * before**2 - (n - left) * behind**2
    return np.maximum(squares, 0.0), behind - before


def _widened(segment: Floats, cut: int) -> float:
    """By what serial correlation widens an error; half a standard error of it is added, as a short series hides it."""
    parts = [part - part.mean() for part in (segment[:cut], segment[cut:])]
    squares = sum(float((part**2).sum()) for part in parts)
    if not squares:
        return 1.0
    products = sum(float((part[1:] * part[:-1]).sum()) for part in parts)
    correlation = min(max(products / squares + 0.5 / math.sqrt(len(segment)), 0.0), CORRELATED)
    return math.sqrt((1 + correlation) / (1 - correlation))


def _run(true: NDArray[np.bool_], at: int) -> tuple[int, int]:
    """The first and last index of the run of true values that `at` lies in; `at` itself where it is not true."""
    first = last = at
    while first > 0 and true[first - 1]:
        first -= 1
    while last + 1 < len(true) and true[last + 1]:
        last += 1
    return first, last
