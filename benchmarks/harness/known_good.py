"""Implementations that are right by construction and round differently: what any change of a kernel may do."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import reference_impl
from reference_impl.contract import MoTOps

MOVED = 0.5
"""Share of a result's elements that `reordered` moves by one unit in the last place."""


@dataclass(frozen=True)
class Jitter:
    """Moves half of all elements by one unit in the last place, up or down, as another order of a sum might.

    generator  on the CPU, so that a seed means the same on every device
    """

    generator: torch.Generator

    def __call__(self, exact: Tensor) -> Tensor:
        """A result of the same shape and dtype."""
        drawn = torch.rand(exact.shape, generator=self.generator).to(exact.device)
        sign = (drawn < MOVED / 2).double() - (drawn > 1 - MOVED / 2).double()
        # 0.75 eps of a value lies between 0.75 and 1.5 of its units, so it rounds to exactly one.
        return (exact.double() * (1 + 0.75 * torch.finfo(exact.dtype).eps * sign)).to(exact.dtype)


def reordered(seed: int) -> MoTOps:
    """The reference implementation with every op's result jittered; another one for every seed.

    The generator goes on from call to call, so a value is good for one run.
    """
    jitter = Jitter(torch.Generator().manual_seed(seed))

    def moved(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: jitter(op(*args))

    def qk_norm_rotary(*args: typing.Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = reference_impl.OPS.qk_norm_rotary(*args)
        return jitter(q), jitter(k), v  # v is a view of its input, which was jittered already

    ops = reference_impl.OPS
    names = ("linear", "rms_norm", "head_rms_norm", "rotary", "gated_linear", "gated_mlp", "attention")
    jittered: dict[str, typing.Any] = {name: moved(getattr(ops, name)) for name in names}
    return dataclasses.replace(ops, name=f"reordered {seed}", qk_norm_rotary=qk_norm_rotary, **jittered)
