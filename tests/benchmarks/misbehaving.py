"""Measuring processes that break in the ways that a kernel can break them. Imported by the processes themselves."""

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path


def serve(connection: Connection, device: str, dtype: str, seed: int) -> None:
    """A tile of 16 rows kills its process, one of 32 never returns; others are "measured"."""
    from benchmarks.harness.tuner_journal import Choice, Result

    connection.send("")
    while True:
        try:
            task, _ = connection.recv()
        except EOFError:
            return
        for tile in task.tiles:
            connection.send(str(tile))
            if tile.block_m == 16:
                os.kill(os.getpid(), signal.SIGKILL)
            if tile.block_m == 32:
                time.sleep(600)
        tile = task.tiles[0]
        choice = Choice("any", tile, [1.0], tile, [1.0], 0.5, 0.5)
        connection.send(Result(task.point, device, list(task.left_out), [choice], 0.0))


def together(connection: Connection, device: str, dtype: str, seed: int) -> None:
    """Measures only when every process of two, in the folder that MEET names, has been given something."""
    from benchmarks.harness.tuner_journal import Choice, Result

    here = Path(os.environ["MEET"])
    connection.send("")
    while True:
        try:
            task, _ = connection.recv()
        except EOFError:
            return
        (here / device).touch()
        while len(list(here.iterdir())) < 2:
            connection.send(str(task.tiles[0]))  # still alive
            time.sleep(0.1)
        choice = Choice("any", task.tiles[0], [1.0], task.tiles[0], [1.0], 0.5, 0.5)
        connection.send(Result(task.point, device, [], [choice], 0.0))


def broken_at_the_start(connection: Connection, device: str, dtype: str, seed: int) -> None:
    """A process that ends before it has been asked anything."""
    raise SystemExit(7)
