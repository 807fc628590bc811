"""A checkout to throw away: this tree as one commit of its own, with fast fakes in place of the measuring steps."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import environment

ROOT = environment.repository_root()
FAKES = """
import os
import signal

from benchmarks.harness.records import Parity, append_line


def _broken(folder):
    raise RuntimeError("the fake is broken")


def _red(folder):
    line = Parity("linear/qkv", "mixed", "fused", "cpu", "float32", "none", 9.0, 9.0, 1.0, 1.0, False)
    append_line(folder / "parity.jsonl", line)
    return "regressed"


def _killed(folder):
    print("the last thing that the fake said")
    os.kill(os.getpid(), signal.SIGKILL)


def _missing(folder):
    return "regressed"


def _refused(folder):
    raise ValueError("expected.png is not a PNG\\n but JPEG")


one_thread_on_a_cpu = lambda: None
STEPS = {"conformance": _broken, "parity": _red, "golden": _killed, "selftest": _missing, "refused": _refused}
"""


def motbench(
    *args: str, cwd: Path = ROOT, flags: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the motbench of the checkout `cwd` as a user does, with these variables in the environment."""
    command = [sys.executable, *flags, "-m", "motbench", *args]
    env = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this tree, committed or not, in a repository of one commit."""
    folder = tmp_path_factory.mktemp("second") / "checkout"
    names = environment.git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    with (folder / "motbench/steps.py").open("a", encoding="utf-8") as steps:
        steps.write(FAKES)
    environment.git(folder, "init", "--quiet")
    for name, text in (("user.name", "t"), ("user.email", "t@example.org"), ("commit.gpgsign", "false")):
        environment.git(folder, "config", name, text)
    environment.git(folder, "add", "--all")
    environment.git(folder, "commit", "--quiet", "--message=all")
    return folder
