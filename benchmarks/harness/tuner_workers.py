"""Processes that measure, one per device: a kernel that hangs or kills its process costs that tile, and no other.

Nothing of mot_impl is imported at the top: the command line decides first whether kernels are interpreted.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait

from benchmarks.harness.impls import said
from benchmarks.harness.tuner_points import Point

if typing.TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from benchmarks.harness.tuner_journal import Entrant, Result
    from mot_impl.tiles import Tile

Serve = Callable[[Connection, str, str, int], None]
"""What a process does with its end of the pipe, device, precision (of PRECISIONS) and seed."""

HUNG_S = 30.0
"""Without a word for so long, a process that measures on a GPU is taken to hang: a launch takes milliseconds, a parity
seconds."""


START_S = 120.0
"""The same for a process that starts: imports from a cold disk, and a GPU's context."""


@dataclass(frozen=True)
class Task:
    """A point, its tiles, and those that are left out with their reasons."""

    point: Point
    tiles: tuple[Tile, ...]
    left_out: tuple[Entrant, ...] = ()


@dataclass
class _Worker:
    """A process on one device, what it was given, and the tile that it last said it would run. Its first word, whatever
    it is, says that it is ready."""

    device: str
    process: SpawnProcess
    connection: Connection
    task: Task | None = None
    tile: str = ""
    ready: bool = False
    heard: float = field(default_factory=time.monotonic)


def _serve(connection: Connection, device: str, precision: str, seed: int) -> None:
    """Measure one task after the other, saying which tile is about to run, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    import torch

    from benchmarks.harness.tuner_bench import Bench, check_alive
    from benchmarks.harness.tuner_journal import Result

    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.empty(1, device=place)  # the context, while others compile
    else:
        torch.set_num_threads(1)
    bench = Bench(place, precision, seed, connection.send)
    connection.send("")
    while True:
        try:
            task, limit_s = connection.recv()
        except EOFError:
            return
        try:
            result = bench.measure(task.point, task.tiles, task.left_out, limit_s)
        except Exception as error:  # of one point; only a device that is lost ends the process
            check_alive(place)
            result = Result(task.point, device, list(task.left_out), [], 0.0, said(error))
        connection.send(result)


@dataclass
class Workers:
    """One process per device; use as a context, which ends them. `serve` is what each of them runs."""

    devices: Sequence[str]
    precision: str
    seed: int
    hung_s: float = HUNG_S
    serve: Serve = _serve

    def __enter__(self) -> Workers:
        self._workers = [self._start(device) for device in self.devices]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()

    def run(self, tasks: Sequence[Task], limit: Callable[[int], float]) -> Iterator[Result]:
        """Every task's result, as they come; no task is begun once `limit` of the number of tasks left is negative.

        `limit` is asked before each task how many seconds its races may take.
        """
        waiting = list(tasks)
        while True:
            for worker in self._workers:
                if worker.task is None and waiting and (seconds := limit(len(waiting))) > 0:
                    worker.task, worker.tile, worker.heard = waiting.pop(0), "", time.monotonic()
                    worker.connection.send((worker.task, seconds))
            busy = [worker for worker in self._workers if worker.task is not None]
            if not busy:
                return
            wait([worker.connection for worker in busy], timeout=min(1.0, self.hung_s))
            for worker in busy:
                result, again = self._hear(worker)
                if result is not None:
                    yield result
                if again is not None:
                    waiting.insert(0, again)

    def _hear(self, worker: _Worker) -> tuple[Result | None, Task | None]:
        """What a worker has to say: a result, or a task to try again without a tile that ended or held up its process.

        Raises RuntimeError if a process ends before it has run anything.
        """
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                worker.heard, worker.ready = time.monotonic(), True
                if not isinstance(message, str):
                    worker.task = None
                    return message, None
                worker.tile = message
        except (EOFError, ConnectionResetError):
            worker.process.join()
            return None, self._without_tile(worker, f"its process ended with code {worker.process.exitcode}")
        if time.monotonic() - worker.heard > (self.hung_s if worker.ready else max(self.hung_s, START_S)):
            return None, self._without_tile(worker, f"it did not return for {self.hung_s:g} s")
        return None, None

    def _without_tile(self, worker: _Worker, reason: str) -> Task:
        from benchmarks.harness.tuner_journal import Entrant

        worker.process.kill()
        worker.process.join()
        task = worker.task
        blamed = [tile for tile in task.tiles if str(tile) == worker.tile] if task else []
        if task is None or not blamed:
            where = f"at {worker.tile or 'its start'}{f' of {task.point.name}' if task else ''}"
            raise RuntimeError(f"the measuring process on {worker.device} broke {where}: {reason}")
        self._workers[self._workers.index(worker)] = self._start(worker.device)
        tiles = tuple(tile for tile in task.tiles if tile not in blamed)
        return replace(task, tiles=tiles, left_out=(*task.left_out, *(Entrant(tile, [], reason) for tile in blamed)))

    def _start(self, device: str) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=self.serve, args=(theirs, device, self.precision, self.seed), daemon=True)
        process.start()
        theirs.close()
        return _Worker(device, process, ours)
