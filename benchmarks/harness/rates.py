"""A share of runs and how far it can be trusted: one rule for calibration and self-test."""

import math

from scipy.stats import binomtest

from benchmarks.harness.records import Rate

CONFIDENCE = 0.95
"""Of each bound of a records.Rate by itself."""


def rate(seen: int, runs: int) -> Rate:
    """seen of runs, with Clopper-Pearson bounds; NaN bounds where nothing ran."""
    if runs == 0:
        return Rate(0, 0, math.nan, math.nan)
    bounds = binomtest(seen, runs).proportion_ci(2 * CONFIDENCE - 1, method="exact")
    return Rate(seen, runs, float(bounds.low), float(bounds.high))
