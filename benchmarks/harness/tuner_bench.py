"""Measure the tiles of a point on one device: a race, the winner's parity, and winner against rule anew."""

from __future__ import annotations

import contextlib
import functools
import math
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import mot_impl
from benchmarks.harness import clock, gate, inputs, scaled_products
from benchmarks.harness.impls import said
from benchmarks.harness.tuner_journal import Choice, Entrant, Result, Rows
from benchmarks.harness.tuner_points import PRECISIONS, Point, rows_in
from benchmarks.harness.tuner_race import race, ratio, winner
from mot_impl.heuristic import rule
from mot_impl.tiles import Tile, TileTable, TuneFile, TuneKey, device_name
from reference_impl.contract import Experts, MoTOps, Problem, Route, require
from reference_impl.tolerance import Closeness

SAMPLE = 3e-4
"""Seconds that one replay should last at least, against the resolution of the events around it."""

AGAIN = 12
"""Rounds of the winner against the rule's tile."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """A device with a precision (of PRECISIONS) and a seed.

    `say` is told which tile is about to run, in case the process does not survive.

    On a CPU the interpreter is timed by the wall: good for trying the command out, and for nothing else.
    """

    device: torch.device
    precision: str
    seed: int
    say: Say = lambda tile: None

    def measure(self, point: Point, tiles: Sequence[Tile], left_out: Sequence[Entrant], limit_s: float) -> Result:
        """Choose among `tiles` and those of the rule; after limit_s seconds of races, what has been seen decides.

        `left_out` are tiles that are not measured, with their reasons. A tile that raises is another; if none is left,
        the result says so.
        """
        start = time.monotonic()
        arguments = self.arguments(point)
        copies = 2
        if self.device.type == "cuda":
            l2_bytes = torch.cuda.get_device_properties(self.device).L2_cache_size
            copies = clock.copies_for_cold(inputs.size_in_bytes(arguments), l2_bytes)
        every = [arguments, *(inputs.copied(arguments) for _ in range(copies - 1))]
        out = {entrant.tile: entrant for entrant in left_out}
        course = _Course(self, point, every, out, start + limit_s)
        plain = [tile for tile in tiles if tile.kind == "gather"]
        choices = [course.choose("any", [rule(self._problem(point, False)).tile, *plain])]
        others = [tile for tile in tiles if tile.kind != "gather"]
        if others and choices[0] is not None:
            best = course.choose("sorted", [rule(self._problem(point, True)).tile, choices[0].tile, *others])
            # A plain tile that wins here too is already the choice for any rows.
            choices.append(best if best is not None and best.tile.kind != "gather" else None)
        made = [choice for choice in choices if choice is not None]
        entrants = [*course.seen.values(), *out.values()]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # the graphs' outputs
        reason = "" if made else "no tile is left: " + "; ".join(f"{e.tile}: {e.reason}" for e in out.values())
        return Result(point, str(self.device), entrants, made, time.monotonic() - start, reason)

    def arguments(self, point: Point) -> tuple[Any, ...]:
        """x, experts and a sorted route; drawn on the device, because a CPU would need seconds for each point.

        Quantised if the precision is one of quantised experts.
        """
        generator = torch.Generator(self.device)
        generator.manual_seed(self.seed * 1_000_003 + zlib.crc32(point.name.encode()))
        normal = functools.partial(torch.randn, generator=generator, device=self.device, dtype=rows_in(self.precision))
        rows = point.n * point.accumulators
        weight = normal(2, rows, point.k).mul_(point.k**-0.5)
        route = Route.image_then_text(point.m - point.n_text, point.n_text, self.device)
        drawn = normal(point.m, point.k), Experts(weight, normal(2, rows) if point.bias else None), route
        return inputs.quantised(drawn, PRECISIONS[self.precision])

    def ops(self, point: Point, tile: Tile) -> MoTOps:
        """The fused implementation with `tile` for the point. Raises ValueError if the tile cannot run here."""
        problem = self._problem(point, True)
        file = TuneFile("user", "candidate", device_name(self.device), ((TuneKey.of(problem), point.m, tile),))
        table = TileTable((file,))
        require(table.choose(problem).tile == tile, "tile {} cannot run {} on {}", tile, point.name, self.device)
        made: MoTOps = mot_impl.fused_ops(table)
        return made

    def sampler(self, point: Point, tile: Tile, every: list[tuple[Any, ...]]) -> Callable[[], float]:
        """A function that measures one sample: seconds per call, going round the copies of the arguments."""
        op = getattr(self.ops(point, tile), point.op)
        calls = [functools.partial(op, *one) for one in every]
        if self.device.type != "cuda":
            calls[0]()
            return lambda: _wall(calls)
        for call in calls * 2:  # compiles, and fills the allocator, which a capture must not do
            call()
        repeat = len(calls)
        graph = clock.capture(calls, repeat)
        rough = clock.replay_seconds(graph, 1)
        if rough < SAMPLE:
            repeat *= math.ceil(SAMPLE / rough)
            graph = clock.capture(calls, repeat)
        return lambda: clock.replay_seconds(graph, 1) / repeat

    def _problem(self, point: Point, image_first: bool) -> Problem:
        return point.problem(self.precision, self.device, image_first)


@dataclass
class _Course:
    """The races of one point. `seen` and `out` collect every tile that was measured, and why others were not."""

    bench: Bench
    point: Point
    every: list[tuple[Any, ...]]
    out: dict[Tile, Entrant]
    until: float

    def __post_init__(self) -> None:
        self.seen: dict[Tile, Entrant] = {}
        self.proved: dict[Tile, Closeness] = {}

    def choose(self, rows: Rows, tiles: Sequence[Tile]) -> Choice | None:
        """The fastest of `tiles`, of which the first is the rule's, unless the rule's is as fast; None if none runs."""
        first = tiles[0]
        with _on_a_stream(self.bench.device):
            samplers = {tile: run for tile in dict.fromkeys(tiles) if (run := self._sampler(tile)) is not None}
            while samplers:
                seconds = race(samplers, until=self.until)
                self.seen |= {tile: Entrant(tile, found) for tile, found in seconds.items()}
                best = winner(seconds)
                wrong = [tile for tile in dict.fromkeys((best, first)) if tile in samplers and not self._agrees(tile)]
                if not wrong:
                    return self._against(rows, best, first, samplers)
                for tile in wrong:
                    del samplers[tile]
        return None

    def _sampler(self, tile: Tile) -> Callable[[], float] | None:
        if tile in self.out:
            return None
        name = str(tile)
        self.bench.say(name)
        try:
            measure = self.bench.sampler(self.point, tile, self.every)
        except Exception as error:  # whatever a launch raises is a finding about the tile
            check_alive(self.bench.device)
            self.out[tile] = Entrant(tile, [], said(error))
            return None

        def sample() -> float:
            self.bench.say(name)
            return measure()

        return sample

    def _agrees(self, tile: Tile) -> bool:
        """Whether the tile's result is within the limits of the reference; else it is out, and why is kept."""
        if tile not in self.proved:
            self.bench.say(str(tile))
            ordinary = scaled_products.ordinary(self.point.op, self.every[0])
            self.proved[tile] = gate.compare(self.bench.ops(self.point, tile), self.point.op, self.every[0], ordinary)
        found = self.proved[tile]
        if not found.ok:
            where = f"worst {found.worst:.3g} of {found.limit_worst:.3g}, RMS {found.rms:.3g} of {found.limit_rms:.3g}"
            self.seen.pop(tile, None)
            self.out[tile] = Entrant(tile, [], f"disagrees with the reference: {where}")
        return found.ok

    def _against(self, rows: Rows, best: Tile, first: Tile, samplers: dict[Tile, Callable[[], float]]) -> Choice:
        """Both in turn, with samples that no choice has seen: the lowest of many noisy medians flatters itself.

        A rule's tile that does not run has no samples.
        """
        fresh: dict[Tile, list[float]] = {tile: [] for tile in (best, first)}
        for _ in range(AGAIN):
            for tile, seconds in fresh.items():
                if tile in samplers:
                    seconds.append(samplers[tile]())
        if first in samplers and best != first and ratio(fresh[best], fresh[first])[2] >= 1:
            best = first
        found = self.proved[best]
        shares = found.worst / found.limit_worst, found.rms / found.limit_rms
        return Choice(rows, best, fresh[best], first, fresh[first], *shares)


def check_alive(device: torch.device) -> None:
    """Raise if an earlier failure has left the device unusable: then only another process can go on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _on_a_stream(device: torch.device) -> Any:
    """Captures need a stream of their own."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


def _wall(calls: Sequence[Callable[[], object]]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) / len(calls)
