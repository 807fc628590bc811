"""The routed norms: of rows, of heads, of the sum of two rows, and of q and k together with their rotary embedding."""

from benchmarks.harness import kernels, subject

OPS = {"rms": "rms_norm", "head": "head_rms_norm", "add_rms": "add_rms_norm", "qk_rotary": "qk_norm_rotary"}


@subject.kernel_seconds
def track_seconds(kind: str, impl: str, shape: str, cache: str) -> subject.Subject:
    """One norm."""
    return kernels.one_op(OPS[kind], "", {"impl": impl, "shape": shape, "cache": cache}, subject.place())
