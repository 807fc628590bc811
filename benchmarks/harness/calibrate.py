"""Measuring known-good and faulty runs of a case: how far they lie from the reference, and from the golden."""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bagel.pipeline import BagelPipeline
from benchmarks.harness import goldens, images, precision
from benchmarks.harness.calibrate_files import Figures, Runs, rounded
from benchmarks.harness.fault import Fault, Place, Setting
from benchmarks.harness.faults import FAULTS
from benchmarks.harness.golden_case import GoldenCase, checkpoint_sha256
from benchmarks.harness.golden_limits import KINDS, Kind, distance, judged_metrics
from benchmarks.harness.goldens import Made, Plan
from benchmarks.harness.images import RGB
from benchmarks.harness.impls import REFERENCE, said
from benchmarks.harness.known_good import Variant, variants
from reference_impl import OPS
from reference_impl.contract import MoTOps

if typing.TYPE_CHECKING:  # commits from before there were quantised experts have no Kind
    from reference_impl.contract import Kind as Quantised


@dataclass(frozen=True)
class Maker:
    """Makes pictures of one case with any implementation; weights are loaded once per dtype and kind."""

    case: GoldenCase
    device: torch.device
    quantise: Quantised | None = None

    def pipeline(self, ops: MoTOps, dtype: torch.dtype) -> BagelPipeline:
        """The case's model with these ops."""
        loaded = _loaded(self.case.checkpoint, Plan(REFERENCE, OPS, OPS, self.device, dtype, self.quantise))
        transformer = dataclasses.replace(loaded.model.transformer, ops=ops)
        own = dataclasses.replace(loaded, model=dataclasses.replace(loaded.model, transformer=transformer))
        return self.case.fitted(own)

    def __call__(self, ops: MoTOps, dtype: torch.dtype, batch: tuple[int, int] = (1, 0)) -> Made:
        """A picture and its latents; of a batch, whose other pictures are from other seeds. Raises ValueError."""
        pipeline, request, (size, place) = self.pipeline(ops, dtype), self.case.image_request(), batch
        if size == 1:
            return goldens.made_of(pipeline.generate(request))
        together = [dataclasses.replace(request, seed=request.seed + (i - place) % size) for i in range(size)]
        return goldens.made_of(pipeline.generate_batch(together)[place])


@functools.lru_cache(maxsize=4)
def _loaded(checkpoint: Path, plan: Plan) -> BagelPipeline:
    return goldens.loaded(checkpoint, plan.ops, plan)


@dataclass(frozen=True)
class Task:
    """One case in one precision on one device: what is measured at once.

    quantise  kind of the linear layers; drift is measured from the same golden, so what quantising costs is in it
    runs    how many known-good runs
    faults  which faults are injected into this case
    anew    drift is measured from the picture that the reference makes now, which is to become the golden
    """

    case: GoldenCase
    device: torch.device
    dtype: torch.dtype
    runs: int
    faults: Sequence[Fault]
    anew: bool = False
    quantise: Quantised | None = None

    @property
    def dtype_name(self) -> str:
        """The precision: float32, or float32-fp8."""
        return precision.named(self.dtype, self.quantise)


def assigned(cases: Sequence[GoldenCase]) -> dict[str, list[Fault]]:
    """Case -> faults: each fault on a case that can have it, and one that only a picture shows on two, in turn."""
    found: dict[str, list[Fault]] = {case.name: [] for case in cases}
    for number, fault in enumerate(FAULTS.values()):
        fitting = [case.name for case in cases if fault.fits(case)]
        for place in range(min(2 if fault.tier == "picture" else 1, len(fitting))):
            found[fitting[(number + place) % len(fitting)]].append(fault)
    return found


def measure(task: Task) -> Figures:
    """Known-good runs of the case, and runs with a fault.

    Drift is measured from the golden or, where there is none that holds, from the picture that would become it. Raises
    OSError or ValueError for a case that cannot be read or made.
    """
    case, make = task.case, Maker(task.case, task.device, task.quantise)
    reference = as_judged(make, task.dtype)
    approved = Made() if task.anew else goldens.approved(case)
    golden = candidate(Maker(case, task.device)) if approved.picture is None or approved.error else approved.picture
    expected: dict[Kind, Made] = {"parity": reference, "drift": Made(golden)}
    good, bad = _Rows(task.dtype_name), _Rows(task.dtype_name)
    for variant in variants(task.runs, task.device, task.dtype, task.quantise):
        good.add(variant.name, expected, _varied(make, variant, task.dtype))
    if lost := [name for name, whole in zip(good.names, good.whole, strict=True) if not whole]:
        raise ValueError(f"{case.name}: {', '.join(lost)} made no picture, though right by construction")
    for fault in task.faults:
        try:
            made = _broken(make, fault, task.dtype)
        except Exception:
            if task.quantise is None:
                raise
            made = Made()
        if task.quantise and made.picture is None:
            continue  # faults are written for dense weights: one that cannot be injected says nothing of the limits
        # A fault of the pipeline is in the reference's pictures too: only the golden knows better.
        bad.add(fault.name, expected if fault.part == "implementation" else {**expected, "parity": made}, made)
    return Figures(
        prompt=case.request.prompt,
        request_sha256=case.request_sha256,
        checkpoint_sha256=checkpoint_sha256(case.checkpoint),
        picture=images.fingerprint(golden),
        good=good.runs(),
        faults=bad.runs(),
    )


def as_judged(make: Maker, dtype: torch.dtype) -> Made:
    """The reference's picture as a check and an approval make it."""
    return _painter(make.device, dtype, make.quantise)(make.case)


@functools.lru_cache(maxsize=4)
def _painter(device: torch.device, dtype: torch.dtype, quantise: Quantised | None) -> goldens.Painter:
    return goldens.painter(OPS, Plan(REFERENCE, OPS, OPS, device, dtype, quantise))


def candidate(make: Maker) -> RGB:
    """The picture that would become the golden: the reference's in the case's own dtype. Raises ValueError."""
    made = as_judged(make, getattr(torch, make.case.request.dtype))
    if made.picture is None:
        raise ValueError(f"{make.case.name}: the reference makes no picture on {make.device.type}: {made.error}")
    return made.picture


def _varied(make: Maker, variant: Variant, dtype: torch.dtype) -> Made:
    with variant.settings():
        return make(variant.ops(), variant.dtype or dtype, variant.batch)


def _broken(make: Maker, fault: Fault, dtype: torch.dtype) -> Made:
    """The picture with the fault; none if it raises, which is as good as seen."""
    setting = Setting(make.pipeline(OPS, dtype), make.case.image_request())
    broken = fault.inject(setting, Place(f"{fault.name}/{make.case.name}/0"))
    try:
        return goldens.made_of(broken.pipeline.generate(broken.request))
    except NotImplementedError:
        raise
    except Exception as error:
        return Made(error=said(error))


@dataclass(frozen=True)
class _Rows:
    """Runs as they come; whole: whether each made a picture that can be compared."""

    dtype: str
    names: list[str] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: dict[Kind, list[dict[str, float]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, name: str, expected: dict[Kind, Made], made: Made) -> None:
        found = {kind: goldens.compare(expected[kind], made, None) for kind in KINDS}
        for kind, finding in found.items():
            metrics = judged_metrics(kind, self.dtype)
            self.rows[kind].append({metric: finding.values.get(metric, math.nan) for metric in metrics})
        self.names.append(name)
        self.whole.append(all(finding.comparison is not None for finding in found.values()))

    def runs(self) -> Runs:
        """By metric, as rounded distances; without a metric that no run has, such as SSIM of a tiny picture."""
        columns: dict[Kind, dict[str, list[float]]] = {kind: {} for kind in KINDS}
        for kind, rows in self.rows.items():
            for metric in judged_metrics(kind, self.dtype):
                column = [rounded(distance(metric, row[metric])) for row in rows]
                if not all(map(math.isnan, column)):
                    columns[kind][metric] = column
        return Runs(list(self.names), columns["parity"], columns["drift"])
