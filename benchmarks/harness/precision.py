"""Precisions by name: the dtype of a model, and the kind of its experts' linear layers where they are quantised.

"bfloat16" is bfloat16 throughout, "bfloat16-fp8" the same with linear layers in fp8. Limits, figures and records are of
a precision.
"""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    import torch

    from reference_impl.contract import Kind

DTYPES = ("float32", "bfloat16", "float16")
QUANTISED: tuple[Kind, ...] = ("fp8", "int8")


def named(dtype: torch.dtype | str, quantise: Kind | None) -> str:
    """bfloat16-fp8, or bfloat16 of None."""
    name = str(dtype).removeprefix("torch.")
    return f"{name}-{quantise}" if quantise else name


def parsed(name: str) -> tuple[str, Kind | None]:
    """The other way. Raises ValueError for a name that is none."""
    dtype, _, kind = name.partition("-")
    if name not in NAMES:
        raise ValueError(f"precision {name!r} is not one of {', '.join(NAMES)}")
    return dtype, typing.cast("Kind", kind) if kind else None


NAMES = tuple(named(dtype, kind) for kind in (None, *QUANTISED) for dtype in DTYPES)
"""Every precision, the dense ones first."""
