"""Measuring known-good runs of a case: how far they lie from the reference, and from the golden."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

import reference_impl
from bagel.pipeline import BagelPipeline
from benchmarks.harness import goldens, images
from benchmarks.harness.calibrate_files import Figures, rounded
from benchmarks.harness.golden_case import GoldenCase, checkpoint_sha256
from benchmarks.harness.golden_limits import Kind, distance, judged_metrics
from benchmarks.harness.goldens import Made
from benchmarks.harness.known_good import Variant, variants
from reference_impl.contract import MoTOps


@dataclass(frozen=True)
class Maker:
    """Makes pictures of one case with any implementation; weights are loaded once per dtype."""

    case: GoldenCase
    device: torch.device

    def __call__(self, ops: MoTOps, dtype: torch.dtype) -> Made:
        """A picture and its latents. Raises ValueError for one that is not finite."""
        pipeline = _loaded(self.case.checkpoint, self.device, dtype)
        transformer = dataclasses.replace(pipeline.model.transformer, ops=ops)
        own = dataclasses.replace(pipeline, model=dataclasses.replace(pipeline.model, transformer=transformer))
        return goldens.made_of(self.case.fitted(own).generate(self.case.image_request()))


@functools.lru_cache(maxsize=4)
def _loaded(checkpoint: object, device: torch.device, dtype: torch.dtype) -> BagelPipeline:
    return BagelPipeline.from_checkpoint(str(checkpoint), reference_impl.OPS, device, dtype)


def measure(
    case: GoldenCase, device: torch.device, dtype: torch.dtype, count: int, told: Callable[[int], None] | None = None
) -> Figures:
    """`count` known-good runs of the case. told: called after each with how many are done.

    Drift is measured from the golden or, where there is none that holds, from the picture that would become it: the
    reference's in the case's own dtype. Raises OSError or ValueError for a case that cannot be read or made.
    """
    make, name = Maker(case, device), str(dtype).removeprefix("torch.")
    reference = make(reference_impl.OPS, dtype)
    approved = goldens.approved(case)
    golden = approved if not approved.error else make(reference_impl.OPS, getattr(torch, case.request.dtype))
    golden = Made(golden.picture)
    if golden.picture is None:
        raise ValueError(f"{case.name}: the reference makes no picture on {device.type}")
    parity: list[dict[str, float]] = []
    drift: list[dict[str, float]] = []
    chosen = variants(count, device, dtype)
    for done, variant in enumerate(chosen, 1):
        made = _varied(make, variant, dtype)
        parity.append(_distances(reference, made, "parity", name))
        drift.append(_distances(golden, made, "drift", name))
        if told:
            told(done)
    return Figures(
        prompt=case.request.prompt,
        request_sha256=case.request_sha256,
        checkpoint_sha256=checkpoint_sha256(case.checkpoint),
        picture=images.fingerprint(golden.picture),
        runs=[variant.name for variant in chosen],
        parity={metric: [run[metric] for run in parity] for metric in parity[0]},
        drift={metric: [run[metric] for run in drift] for metric in drift[0]},
    )


def _varied(make: Maker, variant: Variant, dtype: torch.dtype) -> Made:
    with variant.settings():
        return make(variant.ops(), variant.dtype or dtype)


def _distances(expected: Made, made: Made, kind: Kind, dtype: str) -> dict[str, float]:
    """Every metric that is judged and can be computed, as a rounded distance."""
    found = goldens.compare(expected, made, None)
    if found.comparison is None:
        raise ValueError(f"a known-good run cannot be compared: {found.reason}")
    values = {name: found.values[name] for name in judged_metrics(kind, dtype)}
    return {name: rounded(distance(name, value)) for name, value in values.items() if value == value}
