"""Whole pictures of BAGEL at full size: fused with CUDA graphs against gather/scatter as the public code does it.

Both make the same pictures from the same seeded random weights, which mean nothing; what they cost is real. The public
way computes the branches of guidance one after the other, every update anew and without graphs.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import reference_impl
from bagel.latents import Grid
from bagel.model import Bagel
from bagel.pipeline import BagelPipeline, Guidance, ImageRequest
from bagel.probe import Probe
from bagel.sampler import guide
from bagel.transformer import Context
from benchmarks.harness.baselines import Baseline
from benchmarks.harness.records import Provenance
from benchmarks.harness.stages import Watch
from benchmarks.harness.step_time import EAGER, FUSED, Step, flashed, prove, with_ops
from reference_impl.contract import MoTOps

PROMPT = "a photo of a small red fox asleep on a mossy stone beside a stream, in the soft light of an autumn morning"
STAGE_STEPS = 10
"""Watching a picture waits for the device at every update, so stages are measured on a shorter one."""
WARM_STEPS = 12
"""Enough for two updates with guidance and two without: the second of each is captured."""
EDIT = Guidance(4.0, 2.0, (0.0, 1.0), "text_channel")
"""What upstream's notebook asks for when it edits."""


@dataclass
class PicturePoint:
    """One task. samples: candidate -> seconds of a picture.

    stages      candidate -> seconds of each stage of another picture, of at most STAGE_STEPS steps
    errors      of one step of that size against the truth
    peak_bytes  allocated at most while the fused picture was made, weights included
    """

    task: str
    steps: int
    errors: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    peak_bytes: int = 0

    def median(self, candidate: str) -> float:
        """Seconds."""
        return statistics.median(self.samples[candidate])


@dataclass(frozen=True)
class PictureTimes:
    """Everything of one run."""

    provenance: Provenance
    dtype: str
    layers: int
    weights_bytes: int
    points: list[PicturePoint]


@dataclass(frozen=True)
class Public(BagelPipeline):
    """The pipeline with updates as the public code makes them."""

    def _velocity(
        self, contexts: dict[str, Context], grid: Grid, guidance: Guidance, probe: Probe
    ) -> Callable[[int, Tensor, Tensor], Tensor]:
        steps = {name: Baseline.of(self.model, "gather", grid, contexts[name]) for name in guidance.branches}

        def velocity(step: int, t: Tensor, x: Tensor) -> Tensor:
            at = t.to(self.model.device)
            found = {name: flashed(steps[name])(at, x) for name in guidance.branches_at(t)}
            for name, one in found.items():
                probe.at(step=step, branch=name)("velocity", one)
            if "no_text" not in found:
                return found["main"]
            return guide(found["main"], found["no_text"], found.get("no_image"), guidance)

        return velocity


def request_of(task: str, steps: int) -> ImageRequest:
    """t2i-N: a picture of N x N pixels; edit-N: another one of such a picture. Raises ValueError."""
    kind, _, side = task.partition("-")
    if kind not in ("t2i", "edit") or not side.isdecimal():
        raise ValueError(f"task {task!r} is not t2i-512, t2i-1024, edit-512 or edit-1024")
    n = int(side)
    if kind == "t2i":
        return ImageRequest(PROMPT, height=n, width=n, steps=steps)
    drawn = np.random.default_rng(0).integers(0, 256, (n // 16, n // 16, 3), dtype=np.uint8)
    picture = Image.fromarray(drawn).resize((n, n), Image.Resampling.BICUBIC)
    return ImageRequest(PROMPT, picture, steps=steps, guidance=EDIT)


def measure(model: Bagel, ops: MoTOps, tasks: Sequence[str], steps: int, rounds: int) -> Iterator[PicturePoint]:
    """A point per task, after a short picture that warms each candidate up, and again when more is known.

    Raises ValueError for a task that is none, RuntimeError for a step that is wrong.
    """
    for task in tasks:
        yield from _measure_task(model, ops, task, steps, rounds)
        gc.collect()  # its graphs, which nothing else holds now


def _measure_task(model: Bagel, ops: MoTOps, task: str, steps: int, rounds: int) -> Iterator[PicturePoint]:
    request = request_of(task, steps)
    ours = BagelPipeline(with_ops(model, ops)).with_graphs(3)
    public = Public(with_ops(model, reference_impl.OPS))
    point = PicturePoint(task, steps)
    side = int(task.partition("-")[2]) // model.config.stride
    step = Step.of(ours.model, Grid(side, side))
    point.errors = prove(step, step.call(ours.model, None))
    candidates: dict[str, BagelPipeline] = {FUSED: ours, EAGER: public}
    for pipeline in candidates.values():
        pipeline.generate(dataclasses.replace(request, steps=WARM_STEPS))
    for _ in range(rounds):
        for name, pipeline in candidates.items():
            seconds, peak_bytes = _made(pipeline, request)
            point.samples.setdefault(name, []).append(seconds)
            point.peak_bytes = max(point.peak_bytes, peak_bytes) if name == FUSED else point.peak_bytes
        yield point
    for name, pipeline in candidates.items():
        watch = Watch(torch.cuda.synchronize)
        pipeline.generate(dataclasses.replace(request, steps=min(steps, STAGE_STEPS)), Probe(watch, inside=False))
        point.stages[name] = watch.end()
    yield point


def _made(pipeline: BagelPipeline, request: ImageRequest) -> tuple[float, int]:
    """Seconds of a picture, and the bytes that were allocated at most."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    pipeline.generate(request)
    torch.cuda.synchronize()
    return time.perf_counter() - start, int(torch.cuda.max_memory_allocated())
