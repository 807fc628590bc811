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
import random
import typing
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

import reference_impl
from benchmarks.harness.good_sums import tiled
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
)
from benchmarks.harness.storing import storing
from reference_impl.contract import MoTOps, Problem, Rotary, Route, accumulation_dtype
from reference_impl.tolerance import HALF

REFERENCE = reference_impl.OPS
HELD_OUT = 10_000
"""First seed of the held-out draws; the limits' own count up from 0."""

FUSED_TILES = ((16, 32, 32), (32, 64, 32), (64, 32, 64), (32, 32, 16), (64, 64, 32))
"""(M, N, K) of tiles for the fused kernels, small enough for float32 and for every width."""

THREADS = (3, 4, 5, 6)
"""Thread counts that no limit was measured with."""

KEYS = (16, 24, 32, 48)
"""Keys of attention whose products are added up apart."""


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
        Variant("attention written out", f"attention written out {draw}", lambda: written_out(draw)),
    ]
    if device.type == "cuda":
        found.append(Variant("fused kernels", f"fused kernels {draw}", lambda: other_tiles(draw)))
    return found


def _together(draw: int, device: torch.device) -> Variant:
    """Two or three of PyTorch's alternatives at once, or on a CPU a thread count of its own: none of them is a limit's.

    One kernel of attention at most, as the last one would count. Draws beyond all of these round some ops once too.
    """
    own = libraries(device)
    chosen: list[tuple[Variant, ...]] = [
        several
        for count in (2, 3)
        for several in itertools.combinations(own, count)
        if sum(one.name.endswith("attention") for one in several) < 2
    ]
    if device.type == "cpu":
        others = [one for one in own if one.name != "two threads"]
        for count in THREADS:
            one = Variant("library", f"{count} threads", own[0].ops, functools.partial(threads, count))
            chosen += [(one,), *((one, other) for other in others), (one, *others)]
    several, seed = chosen[draw % len(chosen)], HELD_OUT + draw
    ops = own[0].ops if draw < len(chosen) else functools.partial(rounded_once, seed)
    return Variant("library", " and ".join(one.name for one in several), ops, functools.partial(_all, several))


@contextlib.contextmanager
def _all(several: Sequence[Variant]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for one in several:
            stack.enter_context(one.settings())
        yield


def _each(wrap: Callable[[Callable[..., typing.Any]], Callable[..., typing.Any]], name: str) -> MoTOps:
    """Every routed op of the reference within a wrapper."""
    names = (*NAMES, "qk_norm_rotary")
    wrapped: dict[str, typing.Any] = {op: wrap(getattr(REFERENCE, op)) for op in names if op != "attention"}
    wrapped["qk_norm_rotary"] = storing(wrapped["qk_norm_rotary"])
    return by_norm(dataclasses.replace(REFERENCE, name=name, **wrapped))


def row_tiles(draw: int) -> MoTOps:
    """Every op but attention on 5 to 52 rows at a time, as a kernel with tiles of that many rows."""
    rows = 5 + 7 * draw % 48  # 7 and 48 have no divisor in common, so 48 draws are 48 numbers

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


def written_out(draw: int) -> MoTOps:
    """Attention as two products and a softmax, in float32 at least, rounded once.

    The keys are in an order that the draw chooses, and the products of each block of them are added up apart.
    """
    generator, block = torch.Generator().manual_seed(draw), KEYS[draw % len(KEYS)]

    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        wide, (m, heads, width), (t, groups, _) = accumulation_dtype(q.dtype), q.shape, k.shape
        k, v = (tensor.to(wide).repeat_interleave(heads // groups, dim=1) for tensor in (k, v))
        scores = torch.einsum("mhd,thd->hmt", q.to(wide), k) * width**-0.5
        if causal:
            hidden = torch.ones(m, t, dtype=torch.bool, device=q.device).triu(t - m + 1)
            scores = scores.masked_fill(hidden, float("-inf"))
        weights, order = scores.softmax(-1), torch.randperm(t, generator=generator).to(q.device)
        parts = [torch.einsum("hmt,thd->mhd", weights[..., keys], v[keys]) for keys in torch.split(order, block)]
        return torch.stack(parts).sum(0).to(q.dtype)

    return dataclasses.replace(REFERENCE, name="attention written out", attention=attention)


@functools.cache
def other_tiles(draw: int) -> MoTOps:
    """The fused kernels with one tile for every matrix; from the sixth draw on, each op has a tile of its own."""
    import mot_impl
    from mot_impl.tiles import Tile, TileChoice, TileTable

    def one_of(words: str) -> tuple[int, int, int]:
        return random.Random(words).choice(FUSED_TILES)

    class OtherTiles(TileTable):  # type: ignore[misc]  # mypy does not read mot_impl
        def choose(self, problem: Problem) -> typing.Any:
            few = draw < len(FUSED_TILES)
            block_m, block_n, block_k = FUSED_TILES[draw] if few else one_of(f"{draw}/{problem.op}/{problem.n}")
            return TileChoice(Tile(block_m, block_n, block_k, warps=4, stages=2), "self-test")

    return typing.cast("MoTOps", mot_impl.fused_ops(OtherTiles()))
