"""What a precision costs in pictures: each golden case in several, against the float32 truth.

The truth is the golden, which float32 made; for the latents it is the reference in float32, now and here.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.harness import goldens
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.golden_limits import distance
from benchmarks.harness.goldens import Made, Plan
from benchmarks.harness.images import AT_LEAST
from benchmarks.harness.records import Provenance

METRICS = {
    "ssim": "SSIM",
    "ssim_worst_tile": "SSIM, worst tile",
    "flip_mean": "FLIP",
    "flip_worst_tile": "FLIP, worst tile",
    "psnr": "RMS, levels",
    "latent_relative_l2": "latents",
}
"""Columns of the table: PSNR is shown as the RMS difference in levels."""


@dataclass(frozen=True)
class Cost:
    """One picture in one precision against the truth: metric -> number; error: why there is none."""

    case: str
    precision: str
    metrics: dict[str, float]
    error: str = ""


@dataclass(frozen=True)
class Costs:
    """Everything of one run, of one implementation on one device."""

    provenance: Provenance
    impl: str
    device: str
    costs: list[Cost]


def costs(cases: Sequence[GoldenCase], plans: Sequence[Plan]) -> Iterator[Cost]:
    """Of every case in every plan's precision. Raises OSError or ValueError for a golden that is missing or stale."""
    first = plans[0]
    truth = goldens.painter(first.witness, Plan("reference", first.witness, first.witness, first.device, torch.float32))
    painters = [(plan.dtype_name, goldens.painter(plan.ops, plan)) for plan in plans]
    for case in cases:
        golden = goldens.approved(case)
        if golden.picture is None or golden.error:
            raise ValueError(f"{case.name}: {golden.error}")
        exact = Made(golden.picture, truth(case).latents)
        for name, paint in painters:
            found = goldens.compare(exact, paint(case), None)
            yield Cost(case.name, name, found.values, "" if found.comparison else found.reason)


def table(found: Sequence[Cost]) -> list[str]:
    """Markdown: a row per precision; of every metric the median case and the worst one."""
    lines = [f"| median, worst of the cases | {' | '.join(METRICS.values())} |", "|---|" + "---|" * len(METRICS)]
    for name in dict.fromkeys(one.precision for one in found):
        own = [one for one in found if one.precision == name and not one.error]
        lost = sum(one.precision == name and bool(one.error) for one in found)
        cells = [_cell(metric, [one.metrics[metric] for one in own if metric in one.metrics]) for metric in METRICS]
        label = f"{name} ({len(own)} pictures{f', {lost} not made' if lost else ''})"
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _cell(metric: str, values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    if metric == "psnr":
        values = [distance(metric, value) for value in values]
    worst: Callable[[Sequence[float]], float] = min if metric in AT_LEAST and metric != "psnr" else max
    return f"{statistics.median(values):.3g}, {worst(values):.3g}"


def beside(plan: Plan) -> list[Plan]:
    """The plan's precision, and the same with each kind of quantised layers."""
    return [dataclasses.replace(plan, quantise=kind) for kind in (None, "fp8", "int8")]
