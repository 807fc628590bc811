"""The command line as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = "import sys; sys.argv = ['motbench', '--help']; from motbench.cli import main; main()"


def motbench(folder: Path) -> subprocess.CompletedProcess[str]:
    """`motbench --help` of this clone, typed in `folder`."""
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {RUN}"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


@pytest.fixture
def other_clone(tmp_path: Path) -> Path:
    (tmp_path / "motbench").mkdir()
    (tmp_path / "motbench" / "cli.py").touch()
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_another_clone_is_not_judged_by_this_one(other_clone: Path) -> None:
    done = motbench(other_clone / "docs")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"you are in {other_clone}" in done.stderr


@pytest.mark.parametrize("folder", [ROOT, ROOT / "docs", Path("/")], ids=["root", "below", "elsewhere"])
def test_it_runs_in_its_own_clone_and_outside_of_any(folder: Path) -> None:
    assert motbench(folder).returncode == 0
