"""BAGEL at its own size with random weights: one denoising step, and whole pictures by stage, beside the baselines."""

from benchmarks.harness import subject


@subject.kernel_seconds
def track_step_seconds(impl: str, shape: str) -> subject.Subject:
    """One update behind a prompt, without guidance."""
    return _step(impl, shape)


@subject.peak_memory
def track_step_peak_memory(impl: str, shape: str) -> subject.Subject:
    """Bytes at the highest point of one update, weights included."""
    return _step(impl, shape)


@subject.wall_seconds
def track_picture_seconds(task: str, impl: str) -> subject.Subject:
    """Wall time from request to picture, guided; its stages are in the records."""
    return _picture(task, impl)


@subject.peak_memory
def track_picture_peak_memory(task: str, impl: str) -> subject.Subject:
    """Bytes at the highest point of making one picture, weights included."""
    return _picture(task, impl)


def _step(impl: str, shape: str) -> subject.Subject:
    from benchmarks.harness import full_size

    return full_size.step({"impl": impl, "shape": shape}, full_size.model(impl))


def _picture(task: str, impl: str) -> subject.Subject:
    from benchmarks.harness import full_size

    return full_size.picture({"task": task, "impl": impl}, full_size.model(impl))
