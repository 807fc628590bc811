"""Held-out runs that are right by construction: what the gate must not alarm at.

Limits are measured on known_good.py's variants. These are other draws of the same families, and families that no limit
was ever measured on: rows in tiles, rows in another order, attention written out and, on a GPU, the fused kernels with
tiles that no heuristic chooses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import typing
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import reference_impl
from benchmarks.harness.known_good import (
    MOVED,
    MOVED_IN_HALF,
    NAMES,
    Variant,
    by_norm,
    libraries,
    reordered,
    rounded_once,
    threads,
    tiled,
)
from benchmarks.harness.storing import storing
from reference_impl.contract import MoTOps, Problem, Rotary, Route, accumulation_dtype
from reference_impl.tolerance import HALF

REFERENCE = reference_impl.OPS
HELD_OUT = 10_000
"""First seed of the held-out draws; the limits' own count up from 0."""

FUSED_TILES = ((16, 32, 32), (32, 64, 32), (64, 32, 64), (32, 32, 16), (64, 64, 32))
"""(M, N, K) of tiles for the fused kernels, small enough for float32 and for every width."""


def held_out(draw: int, device: torch.device, dtype: torch.dtype) -> list[Variant]:
    """One variant of every family, another one for every draw; the same for the same arguments."""
    seed = HELD_OUT + draw
    share = MOVED_IN_HALF[draw % len(MOVED_IN_HALF)] if dtype in HALF else MOVED
    found = [
        Variant("moved", f"{share:.0%} moved {seed}", lambda: reordered(seed, share)),
        Variant("tiles", f"tiles {seed}", lambda: tiled(seed)),
        Variant("rounded once", f"rounded once {seed}", lambda: rounded_once(seed)),
        _together(draw, device),
        Variant("rows in tiles", f"rows in tiles {draw}", lambda: row_tiles(draw)),
        Variant("rows in another order", f"rows in order {draw}", lambda: rows_shuffled(draw)),
        Variant("attention written out", "attention written out", written_out),
    ]
    if device.type == "cuda":
        found.append(Variant("fused kernels", f"fused kernels {draw}", lambda: other_tiles(draw % len(FUSED_TILES))))
    return found


def _together(draw: int, device: torch.device) -> Variant:
    """Two of PyTorch's alternatives at once, or on a CPU a thread count of its own: none of them is a limit's."""
    found = [
        Variant("library", f"{one.name} and {other.name}", one.ops, functools.partial(_both, one, other))
        for one, other in itertools.combinations(libraries(device), 2)
    ]
    if device.type == "cpu":
        found.append(Variant("library", "three threads", found[0].ops, lambda: threads(3)))
    return found[draw % len(found)]


@contextlib.contextmanager
def _both(one: Variant, other: Variant) -> Iterator[None]:
    with one.settings(), other.settings():
        yield


def _each(wrap: Callable[[Callable[..., typing.Any]], Callable[..., typing.Any]], name: str) -> MoTOps:
    """Every routed op of the reference within a wrapper."""
    names = (*NAMES, "qk_norm_rotary")
    wrapped: dict[str, typing.Any] = {op: wrap(getattr(REFERENCE, op)) for op in names if op != "attention"}
    wrapped["qk_norm_rotary"] = storing(wrapped["qk_norm_rotary"])
    return by_norm(dataclasses.replace(REFERENCE, name=name, **wrapped))


def row_tiles(draw: int) -> MoTOps:
    """Every op but attention on 5, 8, ... rows at a time, as a kernel with tiles of that many rows."""
    rows = 5 + 3 * (draw % 8)

    def tiled_rows(op: Callable[..., typing.Any]) -> Callable[..., typing.Any]:
        def run(x: Tensor, *rest: typing.Any) -> typing.Any:
            if len(x) <= rows:
                return op(x, *rest)
            starts = range(0, len(x), rows)
            found = [op(x[at : at + rows], *(_own_rows(arg, at, at + rows) for arg in rest)) for at in starts]
            return tuple(map(torch.cat, zip(*found, strict=True))) if isinstance(found[0], tuple) else torch.cat(found)

        return run

    return _each(tiled_rows, f"tiles of {rows} rows")


def _own_rows(arg: typing.Any, start: int, stop: int) -> typing.Any:
    """The part of a route or a rotary table that belongs to these rows; weights belong to all."""
    if isinstance(arg, Route):
        is_image = torch.zeros(arg.n_rows, dtype=torch.bool, device=arg.rows.device)
        is_image[arg.image_rows] = True
        return Route.from_mask(is_image[start:stop])
    return Rotary(arg.cos[start:stop], arg.sin[start:stop]) if isinstance(arg, Rotary) else arg


def rows_shuffled(draw: int) -> MoTOps:
    """Every op gathers the rows of each expert in another order."""
    generator = torch.Generator().manual_seed(draw)

    def shuffled(route: Route) -> Route:
        rows = [own[torch.randperm(len(own), generator=generator).to(own.device)] for own in route.expert_rows]
        return Route(torch.cat(rows), route.n_text)

    def wrap(op: Callable[..., typing.Any]) -> Callable[..., typing.Any]:
        return lambda *args: op(*(shuffled(arg) if isinstance(arg, Route) else arg for arg in args))

    return _each(wrap, f"rows in order {draw}")


def written_out() -> MoTOps:
    """Attention as two products and a softmax, in float32 at least, rounded once."""

    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        wide, (m, heads, width), (t, groups, _) = accumulation_dtype(q.dtype), q.shape, k.shape
        k, v = (tensor.to(wide).repeat_interleave(heads // groups, dim=1) for tensor in (k, v))
        scores = torch.einsum("mhd,thd->hmt", q.to(wide), k) * width**-0.5
        if causal:
            hidden = torch.ones(m, t, dtype=torch.bool, device=q.device).triu(t - m + 1)
            scores = scores.masked_fill(hidden, float("-inf"))
        return torch.einsum("hmt,thd->mhd", scores.softmax(-1), v).to(q.dtype)

    return dataclasses.replace(REFERENCE, name="attention written out", attention=attention)


@functools.cache
def other_tiles(index: int) -> MoTOps:
    """The fused kernels with one tile for every matrix."""
    import mot_impl
    from mot_impl.tiles import Tile, TileChoice, TileTable

    block_m, block_n, block_k = FUSED_TILES[index]
    choice = TileChoice(Tile(block_m, block_n, block_k, warps=4, stages=2), "self-test")

    class OneTile(TileTable):  # type: ignore[misc]  # mypy does not read mot_impl
        def choose(self, problem: Problem) -> typing.Any:
            return choice

    return typing.cast("MoTOps", mot_impl.fused_ops(OneTile()))
