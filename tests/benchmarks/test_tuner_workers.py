"""Measuring processes: a tile that kills or holds up its process is left out, and everything else is measured."""

import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for this process and those that it starts
import misbehaving

from benchmarks.harness.tuner_journal import Result
from benchmarks.harness.tuner_points import Point
from benchmarks.harness.tuner_workers import Task, Workers
from mot_impl.tiles import Tile

GOOD, KILLS, HANGS = (Tile(rows, 64, 64, 4, 1) for rows in (64, 16, 32))


def point(m: int) -> Point:
    return Point("o", m, 1, 64, 64)


def run(tasks, devices=("cpu",), serve=misbehaving.serve, limit=math.inf):
    with Workers(devices, "float16", 0, hung_s=3.0, serve=serve) as workers:
        return list(workers.run(tasks, lambda n: limit))


@pytest.fixture(scope="module")
def results() -> dict[int, Result]:
    """One point with a tile that kills, one with one that hangs, and four others, on two devices; by rows."""
    tasks = [Task(point(m), tiles) for m, tiles in ((1, (KILLS, GOOD)), (2, (HANGS, GOOD)))]
    tasks += [Task(point(m), (GOOD,)) for m in (3, 4, 5, 6)]
    return {result.point.m: result for result in run(tasks, devices=("one", "two"))}


@pytest.mark.parametrize(
    ("m", "tile", "reason"),
    [(1, KILLS, "its process ended with code -9"), (2, HANGS, "it did not return for 3 s")],
    ids=["kills", "hangs"],
)
def test_a_tile_that_breaks_its_process_is_left_out(results, m, tile, reason):
    assert [(entrant.tile, entrant.reason) for entrant in results[m].entrants] == [(tile, reason)]


def test_every_point_is_measured_nevertheless(results):
    assert {m: result.choices[0].tile for m, result in results.items()} == dict.fromkeys(range(1, 7), GOOD)


def test_points_are_shared_among_devices(tmp_path, monkeypatch):
    monkeypatch.setenv("MEET", str(tmp_path))
    found = run([Task(point(m), (GOOD,)) for m in (1, 2)], devices=("one", "two"), serve=misbehaving.together)
    assert {result.device for result in found} == {"one", "two"}


def test_nothing_is_begun_without_time():
    assert run([Task(point(1), (GOOD,))], serve=misbehaving.broken_at_the_start, limit=-1.0) == []


def test_a_process_that_never_starts_is_an_error():
    with pytest.raises(RuntimeError, match=r"the measuring process on cpu broke at its start of o 1:1"):
        run([Task(point(1), (GOOD,))], serve=misbehaving.broken_at_the_start)
