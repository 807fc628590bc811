"""`motbench tune`: compile every point's candidates, measure what the compiler leaves, keep what is proven faster.

The order of events: the journal says what is done; kernels are compiled in parallel while the measuring processes
start; each point is measured; its result goes into the journal and the tile file at once.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.harness.tuner_candidates import Chip, hopper, plain, refusal, survivors
from benchmarks.harness.tuner_compile import Job, compile_all
from benchmarks.harness.tuner_journal import Build, Entrant, Journal, Line, Result, Run, write_table
from benchmarks.harness.tuner_points import PRECISIONS, Point
from benchmarks.harness.tuner_workers import HUNG_S, Task, Workers
from mot_impl.compiled import Compiled, variant
from mot_impl.heuristic import ASYNCHRONOUS, HOPPER_TRITON, heuristic_tile, interpreter_tile, itemsize
from mot_impl.tiles import Tile

COMPILING = 0.4
"""The share of a limited time after which no kernel is compiled any more."""

FAIR = 1.5
"""A point's races may take this many times its share of the time that is left: most take less."""


@dataclass(frozen=True)
class Budget:
    """Seconds for everything, from now on; infinite without a limit."""

    seconds: float = math.inf
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds; negative when they are used up."""
        return self.start + self.seconds - time.monotonic()

    def share(self, points: int, devices: int) -> float:
        """Seconds that one of `points` may take on one of `devices`."""
        return self.left if math.isinf(self.seconds) else FAIR * self.left * devices / max(points, devices)


@dataclass(frozen=True)
class Plan:
    """A point, its tiles, and the variants (compiled kernels) that these need, in the same order."""

    point: Point
    tiles: list[Tile]
    variants: list[str]


def plans(points: Sequence[Point], precision: str, chip: Chip) -> tuple[list[Plan], list[Job]]:
    """The candidates of every point before anything is compiled, and each kernel to compile once."""
    import triton

    sorted_rows = chip.capability == 90 and triton.__version__.startswith(HOPPER_TRITON)
    made: list[Plan] = []
    jobs: dict[str, Job] = {}
    for point in points:
        problem = point.problem(precision, torch.device("cuda"))
        can = sorted_rows and problem.n % 8 == 0 and problem.k % (16 // itemsize(problem)) == 0
        own = heuristic_tile(problem, chip.shared_block, chip.capability // 10 in ASYNCHRONOUS)
        tiles = [*dict.fromkeys([own, *plain(point, chip, problem.kind)])]
        tiles += hopper(point, chip, problem.kind) if can else []
        variants = [variant(problem, tile, point.bias) for tile in tiles]
        for name, tile in zip(variants, tiles, strict=True):
            jobs.setdefault(name, Job(name, problem, tile, point.bias, chip.capability))
        made.append(Plan(point, tiles, variants))
    # The Hopper kernel takes longest to compile, so it comes first.
    return made, sorted(jobs.values(), key=lambda job: job.tile.kind == "gather")


def compiled(
    jobs: Sequence[Job], known: dict[str, Build], budget: Budget, note: Callable[[Build], None]
) -> Iterator[tuple[int, int]]:
    """Compile all, each noted if it is not `known`, which grows by it; yields how many are done, of how many.

    A known kernel too, because Triton's cache may have lost it: it costs little where it has not.
    """
    processes = len(os.sched_getaffinity(0))
    limit = max(0.0, budget.left - (1 - COMPILING) * budget.seconds) if math.isfinite(budget.seconds) else math.inf
    for done, built in enumerate(compile_all(jobs, processes, limit), 1):
        build = Build(built.variant, built.compiled, built.error)
        if build.variant not in known:
            known[build.variant] = build
            note(build)
        yield done, len(jobs)


def task(plan: Plan, builds: dict[str, Build], chip: Chip, kind: str = "dense") -> Task:
    """What is left to measure of a plan, and why the rest is not."""
    made: dict[Tile, Compiled] = {}
    out = []
    for tile, name in zip(plan.tiles, plan.variants, strict=True):
        build = builds[name]
        if build.compiled is None:
            out.append(Entrant(tile, [], build.error))
        elif why := refusal(tile, build.compiled, chip):
            out.append(Entrant(tile, [], why))
        else:
            made[tile] = build.compiled
    # The rule's tile is always measured: it is what the others must beat.
    kept = dict.fromkeys(
        [*(tile for tile in plan.tiles[:1] if tile in made), *survivors(plan.point, made, made, chip, kind)]
    )
    out += [Entrant(tile, [], "too few of its loads are on the way at once") for tile in made if tile not in kept]
    return Task(plan.point, tuple(kept), tuple(out))


def interpreter_task(point: Point, precision: str) -> Task:
    """A few tiles of the interpreter: its own, and smaller ones."""
    own = interpreter_tile(point.problem(precision, torch.device("cpu"), image_first=False))
    return Task(point, (own, Tile(64, 64, 64, 4, 1), Tile(32, 64, 128, 4, 1)))


@dataclass(frozen=True)
class Tuner:
    """One tuning run on some devices of one kind. `tell` gets a line for each event worth one."""

    run: Run
    devices: tuple[str, ...]
    folder: Path
    budget: Budget
    tell: Callable[[str], None]
    status: Callable[[str], None]

    def tune(self, points: Sequence[Point]) -> list[Point]:
        """Measure the points that the journal lacks; returns those that are not measured in the end.

        Raises ValueError for a journal or a tile file that does not fit, RuntimeError if a measuring process breaks.
        """
        journal = Journal.at(self.folder, self.run)
        done = {point: result for point, result in journal.results().items() if point in points}
        todo = [point for point in points if point not in done]
        if done:
            self.tell(f"{len(done)} of {len(points)} points are in {journal.path}; {len(todo)} to do")
        # The interpreter may take minutes for a large layer, but it never waits for another block.
        hung_s = HUNG_S if self.devices[0] != "cpu" else math.inf
        with Workers(self.devices, self.run.dtype, self.run.provenance.seed, hung_s) as workers:
            tasks = self._tasks(todo, journal)
            begun = time.monotonic()
            for number, result in enumerate(workers.run(tasks, lambda n: self.budget.share(n, len(self.devices))), 1):
                journal.append(Line(result=result))
                if result.choices:
                    done[result.point] = result
                    write_table(self.folder, self.run, list(done.values()))
                left = (time.monotonic() - begun) / number * (len(todo) - number)
                self.tell(f"[{number}/{len(todo)}, {left:.0f} s left] {told(result)}")
        return [point for point in points if point not in done]

    def _tasks(self, points: Sequence[Point], journal: Journal) -> list[Task]:
        if not points or torch.device(self.devices[0]).type != "cuda":
            return [interpreter_task(point, self.run.dtype) for point in points]
        chip = Chip.of(torch.device(self.devices[0]))
        made, jobs = plans(points, self.run.dtype, chip)
        builds = journal.builds()
        for done, total in compiled(jobs, builds, self.budget, lambda build: journal.append(Line(build=build))):
            self.status(f"compiled {done} of {total} kernels")
        tasks = [task(plan, builds, chip, PRECISIONS[self.run.dtype]) for plan in made]
        tiles, kept = sum(len(plan.tiles) for plan in made), sum(len(one.tiles) for one in tasks)
        self.tell(f"{len(jobs)} kernels compiled; {kept} of {tiles} candidates of {len(points)} points are measured")
        return tasks


def told(result: Result) -> str:
    """`qkv 1026:2, sorted: hopper 128x256x64 w8 s4 60.1 us, 0.98 of the rule's ...`, or why there is no choice."""
    if not result.choices:
        return f"{result.point.name}: not measured, {result.reason}"
    from benchmarks.harness.tuner_race import ratio

    lines = []
    for choice in result.choices:
        us = sorted(choice.seconds)[len(choice.seconds) // 2] * 1e6
        against = "the rule's tile does not run"
        if choice.tile == choice.rule:
            against = "the rule's own"
        elif choice.rule_seconds:
            against = f"{ratio(choice.seconds, choice.rule_seconds)[0]:.3f} of {choice.rule}"
        lines.append(f"{choice.rows} rows: {choice.tile} {us:.1f} us, {against}")
    return f"{result.point.name}, {'; '.join(lines)}"
