"""The routed gated MLP: gate_up, SiLU(gate) * up, down."""

from benchmarks.harness import kernels, subject


@subject.kernel_seconds
def track_seconds(impl: str, shape: str, cache: str) -> subject.Subject:
    """One gated MLP."""
    return kernels.one_op("gated_mlp", "", {"impl": impl, "shape": shape, "cache": cache}, subject.place())


@subject.kernel_seconds
def track_quantised_seconds(dtype: str, impl: str, shape: str, cache: str) -> subject.Subject:
    """The same with experts in fp8 or int8; between the two layers, fp8 rows are quantised anew."""
    series = {"impl": impl, "shape": shape, "cache": cache, "dtype": dtype}
    return kernels.one_op("gated_mlp", "", series, subject.place())


@subject.peak_memory
def track_peak_memory(impl: str, shape: str) -> subject.Subject:
    """Bytes at the highest point of one gated MLP."""
    return kernels.one_op("gated_mlp", "", {"impl": impl, "shape": shape}, subject.place())
