"""Starting ranks as real processes, and never waiting for them without end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 200
"""For all ranks of one start together; a loaded machine needs a quarter of it."""


@dataclass(frozen=True)
class Ended:
    """How one rank ended."""

    code: int
    stderr: str


Start = Callable[[str, int, Path], list[Ended]]


def _start(job: str, size: int, folder: Path) -> list[Ended]:
    worker = str(Path(__file__).with_name("worker.py"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    logs = [folder / f"stderr-{rank}" for rank in range(size)]
    processes = []
    deadline = time.monotonic() + PATIENCE_S
    try:
        for rank, path in enumerate(logs):
            command = [sys.executable, worker, job, str(rank), str(size), str(folder)]
            with path.open("w") as log:
                processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
        for process in processes:
            process.wait(max(0.1, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [Ended(process.returncode, path.read_text()) for process, path in zip(processes, logs, strict=True)]


@pytest.fixture(scope="session")
def start_ranks() -> Start:
    """start_ranks(job, size, folder): run a job of worker.py on `size` ranks to the end of all."""
    return _start


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks, and the smaller worlds among them, computed: see worker.py."""
    folder = tmp_path_factory.mktemp("ranks")
    ended = _start("everything", 4, folder)
    assert [rank.code for rank in ended] == [0] * 4, "\n".join(rank.stderr for rank in ended)
    return folder
