"""The routed linear layers of one decoder layer."""

from benchmarks.harness import kernels, subject


@subject.kernel_seconds
def track_seconds(layer: str, impl: str, shape: str, cache: str) -> subject.Subject:
    """One linear layer; qkv with bias, the others without, as BAGEL has them."""
    return kernels.one_op("linear", layer, {"impl": impl, "shape": shape, "cache": cache}, subject.place())
