"""Whole pictures on the tiny checkpoint: text-to-image and image-to-image."""

import functools

from benchmarks.harness import jobs, stages, subject


@subject.wall_seconds
def track_seconds(task: str, impl: str) -> subject.Subject:
    """Wall time from request to picture."""
    return _work(task, impl)


@subject.peak_memory
def track_peak_memory(task: str, impl: str) -> subject.Subject:
    """Bytes at the highest point of making one picture."""
    return _work(task, impl)


def _work(task: str, impl: str) -> subject.Subject:
    calls = [jobs.generator(task, impl)]
    device = subject.place()[0].type
    watched = functools.partial(stages.of_picture, calls[0], device)
    proof, ops = functools.partial(jobs.prove, task, impl), functools.partial(jobs.op_seconds, task, impl)
    return subject.Subject(calls, device, proof, stages=watched, ops=ops)
