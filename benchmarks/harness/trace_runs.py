"""Running one golden case with an implementation, freely and from given latents, and keeping the tensors in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import reference_impl
from bagel.pipeline import BagelPipeline, GeneratedImage
from bagel.probe import Probe, Site
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.impls import said
from reference_impl.contract import MoTOps

PREFILL = ("encode", "latent", "vision", "vit", "text")
"""Phases before the first update. The finished contexts hold what these passes have shown."""

Wanted = Callable[[Site], bool]


@dataclass(frozen=True)
class Run:
    """One implementation: running freely, and from the truth's latents with the tensors that were asked for.

    error  why there is no picture, such as NaN in it; tensors seen until then are there
    """

    free: GeneratedImage | None
    local: GeneratedImage | None
    seen: dict[tuple[Site, int], Tensor]
    error: str = ""


@dataclass(frozen=True)
class Bench:
    """Runs a case. Weights are loaded once per dtype; the implementation is a value beside them."""

    case: GoldenCase
    device: torch.device
    dtype: torch.dtype

    def load(self, dtype: torch.dtype) -> BagelPipeline:
        """The case's checkpoint."""
        return self.case.fitted(
            BagelPipeline.from_checkpoint(self.case.checkpoint, reference_impl.OPS, self.device, dtype)
        )

    def run(self, pipeline: BagelPipeline, ops: Callable[[], MoTOps], trajectory: Tensor | None, wanted: Wanted) -> Run:
        """Both runs; with a fresh `ops()` each, because a known-good one draws from a generator."""
        free, error = self._generate(pipeline, ops(), None, Probe())
        seen: dict[tuple[Site, int], Tensor] = {}
        given = free.x_t if trajectory is None and free is not None else trajectory
        local, local_error = self._generate(pipeline, ops(), given, Probe(_collector(seen, wanted)))
        return Run(free, local, seen, error or local_error)

    def _generate(
        self, pipeline: BagelPipeline, ops: MoTOps, trajectory: Tensor | None, probe: Probe
    ) -> tuple[GeneratedImage | None, str]:
        transformer = dataclasses.replace(pipeline.model.transformer, ops=ops)
        judged = dataclasses.replace(pipeline, model=dataclasses.replace(pipeline.model, transformer=transformer))
        request = dataclasses.replace(self.case.image_request(), trajectory=trajectory)
        try:
            return judged.generate(request, probe), ""
        except NotImplementedError:
            raise
        except Exception as error:
            # What an implementation did wrong, such as NaN in the picture, is a finding about it.
            return None, said(error)


def _collector(seen: dict[tuple[Site, int], Tensor], wanted: Wanted) -> Callable[[Site, Tensor], None]:
    """A sink that keeps what is wanted on the CPU; the number tells two texts of one branch apart."""
    counts: dict[Site, int] = {}

    def sink(site: Site, tensor: Tensor) -> None:
        if wanted(site):
            number = counts[site] = counts.get(site, -1) + 1
            seen[site, number] = tensor.detach().clone().cpu()

    return sink


def velocities(site: Site) -> bool:
    """Each branch's velocity of every update."""
    return site.phase == "denoise" and site.op == "velocity"


def within(step: int) -> Wanted:
    """Every tensor before the first update and of this one, and all velocities."""
    return lambda site: site.phase in PREFILL or (site.phase == "denoise" and site.step == step) or velocities(site)
