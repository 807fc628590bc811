"""`.ci/keep-results` against a real remote: what one machine pushed, another neither loses nor repeats."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.invalid", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Machine:
    """A clone with the script and a motbench of its own."""

    def __init__(self, folder: Path, remote: Path) -> None:
        self.folder = folder
        git(folder.parent, "clone", "-q", str(remote), folder.name)
        (folder / ".ci").mkdir(exist_ok=True)
        shutil.copy(ROOT / ".ci/keep-results", folder / ".ci")
        motbench = folder / ".venv/bin/motbench"
        motbench.parent.mkdir(parents=True)
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from motbench.cli import main; main()"
        motbench.write_text(f'#!/bin/sh\nexec \'{sys.executable}\' -P -c "{code}" "$@"\n')
        motbench.chmod(0o755)

    def night(self, run: str) -> None:
        run_folder = self.folder / "results/runs" / run
        (run_folder / "pictures").mkdir(parents=True)
        (run_folder / "timing.jsonl").write_text("{}\n")
        (run_folder / "pictures" / "large.png").write_text("a picture")

    def keep(self) -> str:
        done = subprocess.run([".ci/keep-results"], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    bare, first = tmp_path / "remote.git", tmp_path / "first"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(bare))
    git(tmp_path, "init", "-q", "-b", "main", str(first))
    git(first, "commit", "-q", "--allow-empty", "-m", "first")
    git(first, "push", "-q", str(bare), "main")
    return bare


def kept(remote: Path) -> list[str]:
    return git(remote, "ls-tree", "-r", "--name-only", "results").splitlines()


def test_two_machines_keep_both_their_nights_without_pictures(tmp_path: Path, remote: Path) -> None:
    one, two = Machine(tmp_path / "one", remote), Machine(tmp_path / "two", remote)
    one.night("20261101T020000Z-a")
    two.night("20261101T030000Z-b")
    assert (one.keep(), two.keep()) == ("kept", "kept")
    assert kept(remote) == [f"runs/{run}/timing.jsonl" for run in ("20261101T020000Z-a", "20261101T030000Z-b")]


def test_nothing_new_is_no_commit(tmp_path: Path, remote: Path) -> None:
    machine = Machine(tmp_path / "one", remote)
    machine.night("20261101T020000Z-a")
    machine.keep()
    assert machine.keep() == "nothing new to keep"
    assert git(remote, "rev-list", "--count", "results") == "1"
