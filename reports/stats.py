"""The statistics of a comparison: a mean log-ratio with its error, Holm's levels, and what could have been seen.

Ratios are judged as logarithms: a mean of logs is symmetric (twice as slow and twice as fast are equally far away), and
a drift that slows both sides by 2 % cancels in a pair. The distributions are SciPy's; from scipy.special, because the
self-test asks a hundred thousand times (tests/deciding compares them with scipy.stats.ttest_1samp and ttest_ind).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Estimate:
    """A mean logarithm of head / base, its standard error, and the degrees of freedom of that error."""

    mean: float
    error: float
    freedom: float

    @property
    def ratio(self) -> float:
        """head / base."""
        return math.exp(self.mean)

    @property
    def p(self) -> float:
        """Two-sided p of "the ratio is 1", by Student's t."""
        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * special.stdtr(self.freedom, -abs(self.mean) / self.error))

    def margin(self, level: float) -> float:
        """Half the width of the two-sided interval that misses the truth with probability `level`, as a logarithm."""
        return quantile(1 - level / 2, self.freedom) * self.error

    def interval(self, level: float) -> tuple[float, float]:
        """That interval, as ratios."""
        margin = self.margin(level)
        return math.exp(self.mean - margin), math.exp(min(self.mean + margin, 700.0))

    def upper(self, level: float) -> float:
        """One-sided bound, a ratio, that the truth exceeds with probability `level`."""
        return math.exp(min(self.mean + quantile(1 - level, self.freedom) * self.error, 700.0))

    def visible(self, level: float, matters: float, power: float) -> float:
        """The smallest slowdown (0.02 is 2 %) that would be called at `level` with probability `power`.

        It must pass the test, whose power is the noncentral t's, and its mean must lie beyond `matters`. The error is
        taken as found.
        """
        passes = float(special.nctdtrinc(self.freedom, 1 - power, quantile(1 - level / 2, self.freedom))) * self.error
        beyond = math.log1p(matters) + quantile(power, self.freedom) * self.error
        return math.expm1(min(max(passes, beyond), 700.0))


def figure(samples: Sequence[float], profile: str) -> float:
    """The one number of a process, in seconds: on a GPU the median of its samples, on a CPU the smallest.

    What disturbs a CPU (another program, an interrupt) only ever adds time, and can add it to most samples of a
    process; docs/measuring.md has the spread of both, measured. Events on a GPU see the device alone, and a clock that
    wanders goes both ways.
    """
    return min(samples) if profile == "cpu" else statistics.median(samples)


def quantile(probability: float, freedom: float) -> float:
    """Student's t."""
    return float(special.stdtrit(freedom, probability))


def paired(differences: Sequence[float]) -> Estimate | None:
    """From one log-ratio per round; None for fewer than two, which have no error."""
    n = len(differences)
    if n < 2:
        return None
    values = np.asarray(differences)
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n), n - 1)


def unpaired(now: Sequence[float], then: Sequence[float]) -> Estimate | None:
    """From the seconds of processes that no round pairs; None if a side has fewer than two.

    Student's pooled error, not Welch's: both sides are one machine, and with three processes each Welch's degrees of
    freedom can fall to two, where nothing is ever significant.
    """
    freedom = len(now) + len(then) - 2
    if min(len(now), len(then)) < 2:
        return None
    new, old = np.log(now), np.log(then)
    variance = float(((new - new.mean()) ** 2).sum() + ((old - old.mean()) ** 2).sum()) / freedom
    return Estimate(float(new.mean() - old.mean()), math.sqrt(variance * (1 / len(new) + 1 / len(old))), freedom)


def holm(p: Sequence[float], alpha: float) -> list[float]:
    """The level at which Holm's procedure tests each hypothesis: it is rejected if its p is at most that level.

    The probability of even one false rejection among all of them is at most alpha, however they depend on each other.
    """
    levels = [0.0] * len(p)
    left, stopped = len(p), False
    for i in sorted(range(len(p)), key=p.__getitem__):
        levels[i] = alpha / left
        stopped = stopped or p[i] > levels[i]
        left -= not stopped
    return levels
