"""The fused picture against the reference picture, same seed, same commit. On every machine: quality needs no clock."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable

from benchmarks.harness import jobs, subject
from benchmarks.harness.impls import FUSED, REFERENCE

if typing.TYPE_CHECKING:
    import numpy as np


@subject.number
def track_largest_difference(task: str) -> subject.Subject:
    """Largest difference of any byte of the two pictures, of 255."""

    def largest(fused: np.ndarray, reference: np.ndarray) -> float:
        return float(abs(fused.astype(int) - reference.astype(int)).max())

    return _compared(task, largest)


@subject.number
def track_ssim(task: str) -> subject.Subject:
    """Structural similarity of the two pictures, 1 if they are equal."""

    def similarity(fused: np.ndarray, reference: np.ndarray) -> float:
        from skimage.metrics import structural_similarity

        return float(
            structural_similarity(
                fused,
                reference,
                channel_axis=-1,
                data_range=255,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )

    return _compared(task, similarity)


def _compared(task: str, metric: Callable[[np.ndarray, np.ndarray], float]) -> subject.Subject:
    import numpy as np

    def call() -> float:
        fused, reference = (np.asarray(jobs.generator(task, impl)().image) for impl in (FUSED, REFERENCE))
        return metric(fused, reference)

    return subject.Subject([call], subject.place()[0].type, functools.partial(jobs.prove, task, FUSED))
