"""The subjects of BAGEL's full size: one denoising step and whole pictures, fused and beside the baselines.

Weights are seeded and random, as in `motbench step-time` and `motbench picture-time`, whose parts these are made of. A
step is timed as a CUDA graph, but for what the public code launches call by call; pictures from request to picture.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable

import torch
from torch import Tensor

import reference_impl
from bagel.latents import Grid
from bagel.model import Bagel
from bagel.pipeline import BagelPipeline
from bagel.tokenizer import Tokenizer
from benchmarks.harness import picture_time, profiles, stages, synthetic
from benchmarks.harness.environment import repository_root
from benchmarks.harness.impls import FUSED, load_impl
from benchmarks.harness.kernels import tiles_of
from benchmarks.harness.shapes import SHAPES
from benchmarks.harness.step_time import SIZES, Step, flashed, prove
from benchmarks.harness.subject import Subject, place

if typing.TYPE_CHECKING:
    from benchmarks.harness.baselines import Way

GIB = 2**30
NEEDED = 40 * GIB
"""Bytes of a GPU: 27.6 GiB of weights, one layer of them in float32 for the truth, and a picture's activations."""

STEPS = 10
"""Times in a picture's schedule: enough for updates with and without guidance; `motbench picture-time` makes all 50."""


def model(impl: str) -> Bagel:
    """BAGEL-7B-MoT with random weights on the current GPU. Raises NotImplementedError where it does not fit."""
    device, dtype = place()
    there = torch.cuda.get_device_properties(device).total_memory
    if there < NEEDED:
        raise NotImplementedError(f"{profiles.FULL_SIZE_NEEDS}; this one has {there / GIB:.0f} GiB")
    ops = load_impl(FUSED) if impl == FUSED else reference_impl.OPS
    tokenizer = Tokenizer.load(repository_root() / "tests/data/bagel_oracle/checkpoint")
    return synthetic.random_bagel(synthetic.BAGEL_7B, ops, tokenizer, device, dtype)


def step(series: dict[str, str], bagel: Bagel) -> Subject:
    """One denoising step; series has impl (one of profiles.FULL_SIZE_IMPLS) and shape (the rows)."""
    impl, size = series["impl"], SIZES[int(series["shape"])]
    one = Step.of(bagel, size.grid, pictures=size.pictures)
    call = _call(one, impl)
    # All rows through one expert are another model's step: what routing costs, and nothing to agree with.
    proof = (lambda: None) if impl == profiles.DENSE else functools.partial(prove, one, call)
    launched = impl == profiles.GATHER_EAGER
    return Subject([call], bagel.device.type, proof, _tiles(bagel, impl, series["shape"]), launched=launched)


def picture(series: dict[str, str], bagel: Bagel) -> Subject:
    """One picture, and its seconds by stage; series has task (picture_time.request_of) and impl (fused, gather-eager).

    What is slow once is done before anything is measured: kernels are compiled and graphs captured.
    """
    task, impl = series["task"], series["impl"]
    request = picture_time.request_of(task, STEPS)
    pipeline = BagelPipeline(bagel).with_graphs(3) if impl == FUSED else picture_time.Public(bagel)
    generate = functools.partial(pipeline.generate, request)
    side = int(task.partition("-")[2]) // bagel.config.stride

    def proof() -> None:
        one = Step.of(bagel, Grid(side, side))
        prove(one, _call(one, impl))
        pipeline.generate(dataclasses.replace(request, steps=picture_time.WARM_STEPS))

    device = bagel.device.type
    shape = str(side**2 + 2)
    return Subject(
        [generate],
        device,
        proof,
        _tiles(bagel, impl, shape),
        stages=functools.partial(stages.of_picture, generate, device),
    )


def _call(one: Step, impl: str) -> Callable[[], Tensor]:
    if impl == FUSED:
        return one.call(one.model, None)
    if impl == profiles.GATHER_EAGER:
        return flashed(one.baseline("gather", compiled=False))
    return _preferring(one.baseline(typing.cast("Way", impl), compiled=True))


def _preferring(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """With the attention that the fused step prefers."""
    from torch.nn.attention import sdpa_kernel

    from mot_impl.attention import FUSED_FIRST

    def calling() -> Tensor:
        with sdpa_kernel(FUSED_FIRST, set_priority=True):
            return call()

    return calling


def _tiles(bagel: Bagel, impl: str, shape: str) -> str:
    if impl != FUSED:
        return "none"
    return tiles_of(bagel.transformer.ops, SHAPES[shape], bagel.transformer.dtype, bagel.device, in_blocks=True)
