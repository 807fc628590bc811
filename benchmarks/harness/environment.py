"""Where a number was made: the machine, the software, the commit; and `motbench doctor`'s checks of them."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import clock
from benchmarks.harness.records import Environment, Provenance


def here() -> Environment:
    """This machine and the software in this Python. Imports torch, but neither triton nor the packages under test."""
    import torch

    gpu = torch.cuda.is_available()
    return Environment(
        profile="gpu" if gpu else "cpu",
        os=_operating_system(),
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        torch=torch.__version__,
        triton=version_of("triton") or "none",
        numpy=version_of("numpy") or "none",
        gpu=torch.cuda.get_device_name(0) if gpu else None,
        driver=driver_version() if gpu else None,
        cuda=torch.version.cuda if gpu else None,
        pillow=version_of("pillow") or "none",
    )


def provenance(root: Path, seed: int, command: str) -> Provenance:
    """The commit of the repository at `root`, whether its tree is dirty, and this environment.

    Raises ValueError if `root` is not a git repository with a commit.
    """
    return Provenance(
        commit=git(root, "rev-parse", "HEAD"),
        dirty=bool(changed_files(root)),
        environment=here(),
        protocol=clock.PROTOCOL,
        seed=seed,
        created=now(),
        command=command,
    )


def made_by(command: str, seed: int = 0) -> Provenance:
    """The provenance of this checkout; a copy that is no git repository says so instead of a commit."""
    root = repository_root()
    try:
        return provenance(root, seed, command)
    except (ValueError, OSError):
        return Provenance("not a git repository", True, here(), clock.PROTOCOL, seed, now(), command)


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def repository_root() -> Path:
    """The root of the checkout that this file belongs to, which need not be a git repository."""
    return Path(__file__).resolve().parents[2]


def changed_files(root: Path) -> list[str]:
    """Files of the tree that differ from HEAD or are new and not ignored, as `git status --porcelain` lists them."""
    return git(root, "status", "--porcelain").splitlines()


def git(root: Path, *args: str) -> str:
    """The output of one git command in `root`. Raises ValueError with git's own words."""
    if shutil.which("git") is None:
        raise ValueError("git is not installed, but commits are read with it; install git")
    done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise ValueError(f"`git {' '.join(args)}` failed in {root}: {said}; run this inside a clone of the repository")
    return done.stdout.rstrip()


def commit_named(root: Path, name: str) -> str:
    """The full hash of the commit that a branch, a tag or a short hash means. Raises ValueError if there is none."""
    git(root, "rev-parse", "HEAD")  # says what is wrong where `root` is no clone
    try:
        return git(root, "rev-parse", "--verify", f"{name}^{{commit}}")
    except ValueError as error:
        raise ValueError(
            f"{name!r} is no commit, branch or tag of {root}; `git log` lists commits, `git fetch` gets more"
        ) from error


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution without importing it, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name as Linux reports it, or its architecture."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine()


def driver_version() -> str | None:
    """Version of the NVIDIA driver, or None if nvidia-smi cannot say."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _operating_system() -> str:
    try:
        return f"{platform.system()}, {platform.freedesktop_os_release()['PRETTY_NAME']}"
    except (OSError, KeyError):
        return platform.system()
