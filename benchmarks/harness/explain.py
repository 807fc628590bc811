"""Where fused / dense of a routed layer comes from: its time in parts that add up, by timing variants of its launch.

Nothing in the kernel is instrumented. The same launch without its text rows shows what the text expert costs; with half
and a quarter of K, what one more step costs and what is paid however few there are; with every tile in one block, what
cutting tiles and exchanging their sums costs; on weights that L2 holds, what fetching them costs. Variants are measured
in turn with fused and dense. docs/kernels.md says what each part means.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.records import DENSE, FUSED, Ceilings, Explanation

if typing.TYPE_CHECKING:
    from benchmarks.harness.clock import Call
    from mot_impl.schedule import Schedule
    from mot_impl.tiles import Tile, TileTable
    from reference_impl.contract import Experts, MoTOps, Problem, Route

IMAGE, HALF, QUARTER = "image rows", "image rows, K / 2", "image rows, K / 4"
WHOLE, HOT, DENSE_IMAGE = "image rows, no tile cut", "image rows, hot", "dense, image rows"
VARIANTS = (IMAGE, HALF, QUARTER, WHOLE, HOT, DENSE_IMAGE)

TEXT, EXCHANGE, IMBALANCE, STEPS, ENDS, UNEXPLAINED = (
    "text expert",
    "exchange of cut tiles",
    "imbalance",
    "steps beyond arithmetic",
    "start and end",
    "unexplained",
)
PARTS = (TEXT, IMBALANCE, EXCHANGE, STEPS, ENDS, UNEXPLAINED)
"""What fused takes beyond the arithmetic of its image rows."""

PRODUCTS_A_CYCLE = {"dense": 2048, "fp8": 4096, "int8": 2048}
"""Of a multiprocessor's tensor cores (Hopper), by kind of experts; those of int8 are converted to half precision.
Source: 989 and 1979 Tflop/s of 132 multiprocessors at 1830 MHz (NVIDIA's H100 data sheet)."""

Arguments = tuple[typing.Any, "Experts", "Route"]


@dataclass(frozen=True)
class Launch:
    """A launch of the Hopper kernel that can be varied: op, problem, tile, and what makes ops of a table."""

    op: str
    problem: Problem
    tile: Tile
    ops_of: Callable[[TileTable], MoTOps]

    @classmethod
    def of(cls, op: str, problem: Problem, table: TileTable, ops_of: Callable[[TileTable], MoTOps]) -> Launch | None:
        """None if the table has another kernel for this problem: only the Hopper kernel's steps are known."""
        tile = table.choose(problem).tile
        return cls(op, problem, tile, ops_of) if tile.kind == "hopper" else None

    def plan(self, rows: tuple[int, int], k: int, pieces: int, blocks: int) -> Schedule:
        """Who computes what: rows (text, image), the first k columns, tiles cut in `pieces`; 0: as the kernel likes."""
        from mot_impl import schedule

        width = self.problem.n * (2 if self.op == "gated_linear" else 1)
        n_tiles, steps = -(-width // self.tile.block_n), -(-k // self.tile.block_k)
        step = schedule.step_of(self.problem.kind, self.tile.block_m)
        return schedule.make(rows, n_tiles, steps, blocks, self.tile.group_m, min(pieces, steps), step)

    @property
    def step_cycles(self) -> float:
        """What the tensor cores need for a step of this tile."""
        products: int = self.tile.block_m * self.tile.block_n * self.tile.block_k
        return products / PRODUCTS_A_CYCLE[self.problem.kind]

    def variants(self, every: Sequence[Arguments], pieces: int) -> dict[str, list[Call]]:
        """Calls for VARIANTS on the copies of the arguments; WHOLE only where tiles are cut, in `pieces`."""
        rows = every[0][2].n_image
        k = self.problem.k
        calls: dict[str, list[Call]] = {}
        for name, width in ((IMAGE, k), (HALF, k // 2), (QUARTER, k // 4)):
            ops = self._fixed(rows, width, pieces)
            calls[name] = [functools.partial(getattr(ops, self.op), *_first(one, rows, width)) for one in every]
        if pieces > 1:
            ops = self._fixed(rows, k, 1)
            calls[WHOLE] = [functools.partial(getattr(ops, self.op), *_first(one, rows, k)) for one in every]
        calls[HOT] = calls[IMAGE][:1] * len(every)
        return calls

    def _fixed(self, rows: int, k: int, pieces: int) -> MoTOps:
        """The implementation with this launch's tile, for image rows alone."""
        from mot_impl.tiles import TileTable, TuneFile, TuneKey, device_name

        problem = dataclasses.replace(self.problem, m=rows, k=k)
        tile = dataclasses.replace(self.tile, pieces=pieces)
        file = TuneFile("user", "explain", device_name(problem.device), ((TuneKey.of(problem), rows, tile),))
        return self.ops_of(TileTable((file,)))


def _first(arguments: Arguments, rows: int, k: int) -> Arguments:
    """The image rows and the first k columns: x as a view, the weights, which must be contiguous, as a copy."""
    import torch

    from reference_impl.contract import Route

    x, experts, route = arguments
    if isinstance(x, torch.Tensor):
        x = x[:rows, :k]
    else:
        x = dataclasses.replace(x, values=x.values[:rows, :k], scale=x.scale[:rows])
    weight = experts.weight[:, :, :k].contiguous()  # itself, if that is all of it
    return x, dataclasses.replace(experts, weight=weight), Route.image_then_text(rows, 0, route.rows.device)


def pieces_of(plan: Schedule) -> int:
    """Into how many ranges of K cut tiles are cut; 1 if none is."""
    return max((item.last - item.first for items in plan.wide for item in items if item.slot >= 0), default=1)


def explain(
    launch: Launch,
    route: Route,
    blocks: int,
    samples: Mapping[str, list[float]],
    clocks: Mapping[str, list[int]],
    limits: Ceilings,
    rival: str = DENSE,
) -> Explanation:
    """The parts of a measured point. samples: seconds of FUSED, the rival and VARIANTS; clocks: MHz, or empty."""
    seconds = {name: statistics.median(found) for name, found in samples.items()}
    problem, tile, k = launch.problem, launch.tile, launch.problem.k
    pieces = pieces_of(launch.plan((route.n_text, route.n_image), k, launch.tile.pieces, blocks))
    width = problem.n * (2 if launch.op == "gated_linear" else 1)
    plans = {part: launch.plan((0, route.n_image), k // part, pieces, blocks) for part in (1, 2, 4)}
    longest = {part: _longest(plan) for part, plan in plans.items()}
    step = (seconds[IMAGE] - seconds[HALF]) / (longest[1] - longest[2])
    arithmetic = 2.0 * route.n_image * width * k / limits.rate(problem.kind)
    useful = route.n_image * width * k / (tile.block_m * tile.block_n * tile.block_k) / blocks
    exchange = 0.0
    if pieces > 1:
        whole = _longest(launch.plan((0, route.n_image), k, 1, blocks))
        exchange = seconds[IMAGE] - seconds[WHOLE] + step * (whole - longest[1])
    ends = seconds[QUARTER] - step * longest[4] - exchange
    parts = {
        TEXT: seconds[FUSED] - seconds[IMAGE],
        IMBALANCE: step * (longest[1] - useful),
        EXCHANGE: exchange,
        STEPS: step * useful - arithmetic,
        ENDS: ends,
        UNEXPLAINED: seconds[IMAGE] - step * longest[1] - exchange - ends,
    }
    mhz = {name: statistics.median(found) for name, found in clocks.items() if found}
    return Explanation(
        blocks=blocks,
        tiles=len({(i.expert, i.row, i.col) for items in plans[1].wide for i in items}),
        pieces=pieces,
        longest_steps=longest[1],
        mean_steps=useful,
        step_seconds=step,
        step_cycles=step * mhz[IMAGE] * 1e6 if IMAGE in mhz else None,
        mhz={name: mhz[name] for name in (FUSED, rival) if name in mhz},
        text_bytes=float(width * k * (problem.dtype.itemsize if problem.kind == "dense" else 1))
        if route.n_text
        else 0.0,
        cold_seconds=seconds[IMAGE] - seconds[HOT],
        arithmetic=arithmetic,
        parts=parts,
        rival=rival,
        rival_beyond=seconds[rival] - arithmetic,
        samples={name: list(samples[name]) for name in VARIANTS if name in samples},
        needed_cycles=launch.step_cycles,
    )


def _longest(plan: Schedule) -> int:
    return max((sum(item.steps for item in items) for items in plan.wide), default=0)
