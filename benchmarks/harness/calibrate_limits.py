"""Limits as a quantile of known-good runs, and how often a known-good run is outside.

Pictures of different prompts move by very different amounts under the same harmless change, but the runs of one case
are much alike. So a run is measured by its own case: its *ratio* is the largest quotient, over the judged metrics, of
its distance and the largest distance of the case's other runs. Ratios of all cases are comparable, and a quantile of
all of them is the factor by which a limit exceeds the largest distance that was seen of its case and metric:

    limit = factor * largest distance of the case's runs, or the floor of the metric if they are all under it

A run is outside as soon as one metric is, and the ratio is the largest over all metrics, so the rate of false alarms
holds for all of them together. A run's own distances are never in the limits that it is judged by here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.harness import images
from benchmarks.harness.calibrate_files import Runs
from benchmarks.harness.golden_limits import KINDS, Kind, distance, of_distance
from benchmarks.harness.rates import rate
from benchmarks.harness.records import Rate
from reference_impl.tolerance import FACTOR

Array = npt.NDArray[np.float64]

ALARMS = 1 / 400
"""Share of known-good runs that may be outside. With fewer runs than this asks for, the largest ratio is the factor,
and 1 / (runs + 1) is the rate.
"""

BASE_FACTOR = FACTOR
"""The least factor of the limits that hold on any stack: as everywhere (reference_impl/tolerance.py), not measured."""

FLOORS = {
    "absmax": 1.0,
    "p99_9": 2.0,
    "mean": 0.003,
    "share_over_0": 0.003,
    "bias": 0.003,
    "bias_block": 0.01,
    "psnr": 0.03,
    "ssim_worst_tile": 1e-4,
    "flip_worst_tile": 1e-3,
    "latent_relative_l2": 2.0**-24,
    "latent_absmax": 2.0**-24,
}
"""Smallest distance that counts: one level on 0.3 % of pixels, what independent machines and re-implementations differ
by in float32 (docs/golden-images.md), in the units of every metric; two levels on a thousandth of them; of latents
one rounding.
"""


@dataclass(frozen=True)
class Spread:
    """The known-good runs of one case, one kind and one dtype: metric -> distances."""

    prompt: str
    distances: dict[str, list[float]]

    @property
    def reach(self) -> dict[str, float]:
        """Metric -> the largest distance of any run."""
        return {name: max(values) for name, values in self.distances.items()}

    def ratios(self) -> list[float]:
        """Of every run: how far it is in its worst metric beside the farthest of the others; 0 under every floor."""
        own, others, floors = self._arrays()
        return np.where(own > floors, own / np.maximum(others, floors), 0).max(axis=0).tolist() if own.size else []

    def scores(self, by: float) -> list[float]:
        """Of every run: the largest share that it uses of any limit that the others and this factor set."""
        own, others, floors = self._arrays()
        return (own / np.where(others > floors, by * others, floors)).max(axis=0).tolist() if own.size else []

    def _arrays(self) -> tuple[Array, Array, Array]:
        """Distances [metrics, runs], the largest of the other runs' [metrics, runs], and floors [metrics, 1].

        All are empty for fewer than two runs: then there are no others.
        """
        own = np.array(list(self.distances.values()), dtype=np.float64)
        if own.ndim != 2 or own.shape[1] < 2:
            return (np.empty((0, 0)),) * 3
        order = np.sort(own, axis=1)
        others = np.where(own == order[:, -1:], order[:, -2:-1], order[:, -1:])
        return own, others, np.array([[FLOORS[name]] for name in self.distances])


def factor(values: Sequence[float]) -> float:
    """The quantile of ratios that leaves ALARMS of further runs outside, never under 1. Raises ValueError for none."""
    if not values:
        raise ValueError("there are no known-good runs to set limits from; use --runs 6 or more")
    rank = min(len(values), math.ceil((len(values) + 1) * (1 - ALARMS)))
    return max(1.0, sorted(values)[rank - 1])


def limits(reached: Mapping[str, float], by: float) -> dict[str, float]:
    """Metric -> limit: the reach of known-good runs times a factor, two digits of it rounded away from zero; or the
    floor where no run has left it.
    """
    return {name: _loose(name, value * by if value > FLOORS[name] else FLOORS[name]) for name, value in reached.items()}


def _loose(name: str, value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    limit = of_distance(name, math.ceil(round(value / unit, 6)) * unit)
    if name == "psnr":
        return max(0.0, math.floor(limit * 100) / 100)
    limit = max(0.0, limit)
    return float(f"{limit:.6f}") if name in images.AT_LEAST else float(f"{limit:.3g}")


def alarms(cases: Sequence[Spread], by: float | None = None) -> tuple[Rate, Rate]:
    """False alarms of runs, and of prompts with any, when a prompt's own runs had no part in the factor.

    by: a factor that was chosen, not measured. Without a second prompt nothing is measured.
    """
    prompts = sorted({case.prompt for case in cases})
    runs, outside, loud = 0, 0, 0
    for prompt in prompts if len(prompts) > 1 or by else ():
        others = [ratio for case in cases if case.prompt != prompt for ratio in case.ratios()]
        used = by or factor(others)
        own = [score for case in cases if case.prompt == prompt for score in case.scores(used)]
        over = sum(score > 1 for score in own)
        runs, outside, loud = runs + len(own), outside + over, loud + bool(over)
    return rate(outside, runs), rate(loud, len(prompts) if runs else 0)


def p_value(score: float, population: Sequence[float]) -> float:
    """Share of runs, the judged one among them, that are at least as far: never under 1 / (runs + 1)."""
    return (1 + sum(other >= score for other in population)) / (1 + len(population))


def seen(faults: Runs, given: Mapping[Kind, Mapping[str, float] | None]) -> list[bool]:
    """Of every injected fault, whether it is outside the limits of parity or of drift. No picture is outside."""
    return [
        any(
            not row[i] <= distance(name, (given[kind] or {})[name])
            for kind in KINDS
            for name, row in faults.of(kind).items()
            if name in (given[kind] or {})
        )
        for i in range(len(faults.names))
    ]
