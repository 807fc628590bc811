"""Linear layers whose sums over K are in another order, in blocks, or in fewer bits: what a kernel's tiles may do."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import reference_impl
from reference_impl import contract
from reference_impl.contract import Experts, MoTOps, Route, accumulation_dtype

if typing.TYPE_CHECKING:
    from reference_impl.contract import Rows

QUANTISED_ROWS: typing.Any = getattr(contract, "QuantisedRows", ())
"""None of commits from before there were quantised experts, whose Experts have neither kind nor scale."""

TILES, SPLITS = (16, 32, 64, 128), (1, 2, 4, 8)
"""Columns of K that are added up at once, and parts of K that are added up apart."""

SHORT, SHORT_STEP = 22, 32
"""Bits of the accumulator of Hopper's tensor cores in fp8, and columns of K that one of their instructions adds."""


def kind_of(experts: Experts) -> str:
    """dense, fp8 or int8."""
    return getattr(experts, "kind", "dense")


def as_taken(x: Rows, *args: typing.Any) -> Rows:
    """x as a linear op multiplies it: of fp8 experts among its arguments, an x that is not yet quantised is."""
    first = args[0] if args else None
    if isinstance(first, Experts) and kind_of(first) == "fp8" and isinstance(x, Tensor):
        from reference_impl.quantise import quantise_rows

        route = next(arg for arg in args if isinstance(arg, Route))
        return quantise_rows(x, route, first.input_scale)
    return x


def tiled(seed: int, short: bool = False) -> MoTOps:
    """The reference with every linear layer's sum over K in blocks, in an order that the seed chooses.

    Sums are in float32 (float64 for float64) and rounded once, as in a kernel. The tile, the number of parts that are
    added up apart, and the order of the blocks are drawn for each call; gate and up are rounded, or not, for the whole
    run. short: sums are kept in SHORT bits after each SHORT_STEP columns, as in Hopper's tensor cores in fp8.
    """
    generator = torch.Generator().manual_seed(seed)
    rounds_gate = bool(torch.rand((), generator=generator) < 0.5)

    def total(given: Rows, experts: Experts, route: Route) -> Tensor:
        x: typing.Any = as_taken(given, experts, route)
        values, scale = (x.values, x.scale[:, None]) if isinstance(x, QUANTISED_ROWS) else (x, None)
        tile, parts = (
            options[int(torch.randint(len(options), (), generator=generator))] for options in (TILES, SPLITS)
        )
        weight_scale: Tensor | None = getattr(experts, "scale", None)
        tile = SHORT_STEP if short else tile
        wide = accumulation_dtype(x.dtype)
        y = torch.empty(route.n_rows, experts.n_out, dtype=wide, device=values.device)
        order = torch.randperm(math.ceil(experts.n_in / tile), generator=generator)
        for expert, rows in enumerate(route.expert_rows):
            y[rows] = _blocked(values[rows].to(wide), experts.weight[expert].to(wide), Sum(tile, order, parts, short))
            if scale is not None:
                y[rows] *= scale[rows]
            if weight_scale is not None:
                y[rows] *= weight_scale[expert]
            if experts.bias is not None:
                y[rows] += experts.bias[expert].to(y.dtype)
        return y

    def linear(x: Rows, experts: Experts, route: Route) -> Tensor:
        return total(x, experts, route).to(x.dtype)

    def gated_linear(x: Rows, gate_up: Experts, route: Route) -> Tensor:
        both = total(x, gate_up, route)
        gate, up = (both.to(x.dtype).to(both.dtype) if rounds_gate else both).chunk(2, dim=-1)
        return (F.silu(gate) * up).to(x.dtype)

    def gated_mlp(x: Rows, gate_up: Experts, down: Experts, route: Route) -> Tensor:
        return linear(gated_linear(x, gate_up, route), down, route)

    return dataclasses.replace(
        reference_impl.OPS, name=f"tiles {seed}", linear=linear, gated_linear=gated_linear, gated_mlp=gated_mlp
    )


@dataclass(frozen=True)
class Sum:
    """How K is added up: in blocks of `tile` columns, in `order`, in `parts` that are added up last.

    short  in SHORT bits
    """

    tile: int
    order: Tensor
    parts: int
    short: bool = False


def _blocked(x: Tensor, weight: Tensor, how: Sum) -> Tensor:
    """x [M, K] @ weight [N, K].T, both in the dtype that is added up in."""
    count, tile = len(how.order), how.tile
    padded = count * tile - x.shape[1]
    blocks_x = F.pad(x, (0, padded)).view(len(x), count, tile).transpose(0, 1)
    blocks_w = F.pad(weight, (0, padded)).view(len(weight), count, tile).permute(1, 2, 0)
    products = torch.bmm(blocks_x, blocks_w)
    sums = []
    for part in how.order.tensor_split(how.parts):
        found = products.new_zeros(products.shape[1:])
        for block in part.tolist():
            found = found + products[block]
            if how.short:
                found = _shortened(found)
        sums.append(found)
    return torch.stack(sums).sum(0)


def _shortened(x: Tensor) -> Tensor:
    """float32 with SHORT bits in all, the rest cut off."""
    return x.float().view(torch.int32).bitwise_and(-1 << (32 - SHORT)).view(torch.float32).to(x.dtype)
