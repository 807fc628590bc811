"""The routed linear layers of one decoder layer."""

from benchmarks.harness import kernels, subject


@subject.kernel_seconds
def track_seconds(layer: str, impl: str, shape: str, cache: str) -> subject.Subject:
    """One linear layer; qkv with bias, the others without, as BAGEL has them."""
    return kernels.one_op("linear", layer, {"impl": impl, "shape": shape, "cache": cache}, subject.place())


@subject.kernel_seconds
def track_quantised_seconds(layer: str, dtype: str, impl: str, shape: str, cache: str) -> subject.Subject:
    """The same with experts in fp8 or int8; of gate_up its rows alone, without SiLU."""
    series = {"impl": impl, "shape": shape, "cache": cache, "dtype": dtype}
    return kernels.one_op("linear", layer, series, subject.place())
