"""A writer that dies or finds the disk full, at every point of a write: nothing is lost and nothing is half written."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import records
from benchmarks.harness.records import Check

OLD, NEW = b"old content", b"new content"
POINTS = ("mkstemp 1", "write 1", "fsync 1", "chmod 1", "mkstemp 2", "fsync 2", "replace 1", "replace 2")
WRITE = """
import os, sys, tempfile
from pathlib import Path
from benchmarks.harness import records

def dying(name, function):
    def call(*arguments, **named):
        calls[name] = calls.get(name, 0) + 1
        if f"{name} {calls[name]}" == sys.argv[2]:
            os._exit(7)  # at once, as after SIGKILL: no finally, no flush
        return function(*arguments, **named)
    return call

calls = {}
tempfile.mkstemp = dying("mkstemp", tempfile.mkstemp)
for name, point in (("fdopen", "write"), ("fsync", "fsync"), ("chmod", "chmod"), ("replace", "replace")):
    setattr(os, name, dying(point, getattr(os, name)))
folder = Path(sys.argv[1])
records.write_together({folder / "one": b"new content", folder / "two": b"new content"})
"""
FILL = """
import resource, sys
from pathlib import Path
from benchmarks.harness import records

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # where the disk ends, for this process
path = Path(sys.argv[1])
try:
    if sys.argv[2] == "whole":
        records.write_atomic(path, 100_000 * b"x")
    else:
        while True:
            records.append_line(path, records.Check("a check", "ok", 300 * "x"))
except OSError as error:
    print(error.strerror)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_every_file_is_old_or_new(tmp_path: Path, point: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(OLD)
    done = run(WRITE, str(tmp_path), point)
    assert done.returncode == 7, done.stderr
    assert {(tmp_path / name).read_bytes() for name in ("one", "two")} <= {OLD, NEW}


@pytest.mark.parametrize("point", [point for point in POINTS if point[:7] != "replace"])
def test_killed_before_the_renaming_nothing_has_changed(tmp_path: Path, point: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(OLD)
    run(WRITE, str(tmp_path), point)
    assert [(tmp_path / name).read_bytes() for name in ("one", "two")] == [OLD, OLD]


def test_a_full_disk_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(OLD)
    assert run(FILL, str(path), "whole").stdout == "File too large\n"
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (OLD, [path])


def test_a_full_disk_loses_no_line_that_was_written_before(tmp_path: Path) -> None:
    path = tmp_path / "timing.jsonl"
    assert run(FILL, str(path), "lines").stdout == "File too large\n"
    lines, broken = records.read_lines(path, Check)
    assert (len(lines), broken) == (11, 1)


def test_after_half_a_line_the_next_record_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "timing.jsonl"
    records.append_line(path, Check("first", "ok", ""))
    with path.open("a") as file:
        file.write('{"name": "ha')
    records.append_line(path, Check("third", "ok", ""))
    lines, broken = records.read_lines(path, Check)
    assert ([line.name for line in lines], broken) == (["first", "third"], 1)
