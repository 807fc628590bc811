"""One whole decoder layer of `bagel`, attention included."""

from benchmarks.harness import kernels, subject


@subject.kernel_seconds
def track_seconds(impl: str, shape: str) -> subject.Subject:
    """One decoder layer behind a short context."""
    return kernels.layer({"impl": impl, "shape": shape}, subject.place())


@subject.peak_memory
def track_peak_memory(impl: str, shape: str) -> subject.Subject:
    """Bytes at the highest point of one decoder layer."""
    return kernels.layer({"impl": impl, "shape": shape}, subject.place())


@subject.kernel_seconds
def track_quantised_seconds(dtype: str, impl: str, shape: str) -> subject.Subject:
    """The same with experts in fp8 or int8; quantising rows is part of it."""
    return kernels.layer({"impl": impl, "shape": shape, "dtype": dtype}, subject.place())


@subject.peak_memory
def track_quantised_peak_memory(dtype: str, impl: str, shape: str) -> subject.Subject:
    """Bytes at the highest point of one decoder layer with experts in fp8 or int8."""
    return kernels.layer({"impl": impl, "shape": shape, "dtype": dtype}, subject.place())
