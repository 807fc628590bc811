"""The fused picture against the reference picture, same seed, same commit. On every machine: quality needs no clock."""

import functools
import math

from benchmarks.harness import jobs, subject
from benchmarks.harness.impls import FUSED, REFERENCE


@subject.number
def track_largest_difference(task: str) -> subject.Subject:
    """Largest difference of any byte of the two pictures, of 255."""
    return _compared(task, "absmax")


@subject.number
def track_ssim(task: str) -> subject.Subject:
    """Structural similarity of the two pictures, 1 if they are equal."""
    return _compared(task, "ssim")


def _compared(task: str, metric: str) -> subject.Subject:
    import numpy as np

    from benchmarks.harness import images

    def call() -> float:
        fused, reference = (np.asarray(jobs.generator(task, impl)().image) for impl in (FUSED, REFERENCE))
        found = images.compare(reference, fused)
        if math.isnan(found.values[metric]):
            raise ValueError(f"{task}: {metric} could not be computed: {found.versions[metric]}")
        return found.values[metric]

    return subject.Subject([call], subject.place()[0].type, functools.partial(jobs.prove, task, FUSED))
