"""The two end-to-end jobs of the suite, on the committed tiny checkpoint: text-to-image and image-to-image.

Size, steps, seed and guidance are fixed here; changing one is a change of the measuring protocol.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable

from benchmarks.harness.environment import repository_root
from benchmarks.harness.impls import FUSED, REFERENCE, load_impl
from benchmarks.harness.subject import place

if typing.TYPE_CHECKING:
    import torch

    from bagel.pipeline import BagelPipeline, GeneratedImage, ImageRequest
    from reference_impl.contract import MoTOps

ORACLE = "tests/data/bagel_oracle"
STEPS = 8


def generator(
    task: str, impl: str, steps: int = STEPS, dtype: torch.dtype | None = None
) -> Callable[[], GeneratedImage]:
    """A function that makes the picture of `task` ("t2i" or "img2img"), the same every time.

    dtype is the profile's own unless given.
    """
    return functools.partial(_pipeline(impl, dtype or place()[1]).generate, _request(task, steps))


def op_seconds(task: str, impl: str) -> dict[str, float]:
    """How many seconds of the picture each op takes."""
    from benchmarks.harness import op_seconds as ledger

    device, dtype = place()

    def make(ops: MoTOps) -> Callable[[], GeneratedImage]:
        return functools.partial(_load(ops, dtype).generate, _request(task, STEPS))

    return ledger.of_picture(make, load_impl(impl), device.type)


def _request(task: str, steps: int) -> ImageRequest:
    from PIL import Image

    from bagel.pipeline import Guidance, ImageRequest

    if task == "t2i":
        return ImageRequest("a photo of a red cat on a wooden table", height=64, width=64, steps=steps, seed=1)
    with Image.open(repository_root() / ORACLE / "cases/inputs/edit_input.png") as picture:
        picture.load()
    guidance = Guidance(4.0, 2.0, (0.0, 1.0), "text_channel")
    return ImageRequest("Make the sky darker and add rain.", picture, steps=steps, seed=1, guidance=guidance)


def prove(task: str, impl: str) -> None:
    """Raise ValueError unless the first velocity of `impl` is as close to the truth as the reference's own.

    One update, because what follows amplifies rounding; truth is the reference in a wider dtype, and the limits are
    those of single ops (reference_impl/tolerance.py). The reference has nothing to prove.
    """
    if impl == REFERENCE:
        return
    from reference_impl.tolerance import judge, truth_dtype

    device, dtype = place()
    actual, reference, exact = (
        generator(task, name, steps=2, dtype=precision)().v_t[0]
        for name, precision in ((impl, dtype), (REFERENCE, dtype), (REFERENCE, truth_dtype(dtype)))
    )
    found = judge(actual, reference, exact)
    if not found.ok:
        raise ValueError(
            f"{task}: the first velocity of {impl} is off by {found.worst:.3g} (RMS {found.rms:.3g}) where "
            f"{found.limit_worst:.3g} (RMS {found.limit_rms:.3g}) is allowed; run motbench parity {ORACLE} --impl "
            f"{impl} --device {device.type} --dtype {str(dtype).removeprefix('torch.')}"
        )


@functools.cache
def _pipeline(impl: str, dtype: torch.dtype) -> BagelPipeline:
    pipeline = _load(load_impl(impl), dtype)
    # As it is used: with CUDA graphs, at commits that have them, of implementations that are known to be fit for them.
    graphed = impl in (FUSED, REFERENCE) and hasattr(pipeline, "with_graphs")
    return pipeline.with_graphs(2) if graphed else pipeline


def _load(ops: MoTOps, dtype: torch.dtype) -> BagelPipeline:
    from bagel.pipeline import BagelPipeline
    from bagel.transforms import Resize

    folder = repository_root() / ORACLE / "checkpoint"
    model = BagelPipeline.from_checkpoint(folder, ops, place()[0], dtype).model
    # The tiny checkpoint's position tables are too small for the sizes that upstream brings pictures to.
    return BagelPipeline(model, Resize(128, 64, 16), Resize(126, 56, 14))
