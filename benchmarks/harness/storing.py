"""Changed q/k norm and rotary that store, as the op which they stand in for does."""

from __future__ import annotations

import typing
from collections.abc import Callable

from torch import Tensor

Heads = tuple[Tensor, Tensor, Tensor]


def storing(op: Callable[..., Heads]) -> Callable[..., Heads]:
    """`op` (qkv, norm, table, route) -> q, k, v with the contract's fifth argument: a KVSlice, which k and v go into.

    Old commits never give one, and have no KVSlice: so none is imported.
    """

    def qk_norm_rotary(qkv: Tensor, norm: typing.Any, table: typing.Any, route: typing.Any, *into: typing.Any) -> Heads:
        q, k, v = op(qkv, norm, table, route)
        return (q, *into[0].keep(k, v)) if into else (q, k, v)

    return qk_norm_rotary
