"""asv's environment "overlay": the running Python, with only the packages under test taken from each commit.

asv loads this file because asv.conf.json names it in `plugins` (with a leading dot). No commit is built or installed:
its packages are exported from git (harness/overlay.py), and every measuring process gets that folder first on its path.
"""

import fcntl
import itertools
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from asv import util
from asv.environment import Environment
from asv.machine import Machine, MachineCollection

from benchmarks.harness import environment, overlay, profiles

KEPT_COMMITS = 50
"""Exported commits (with their compiled kernels) that stay on disk; the longest unused go first."""


def setup() -> None:
    """asv calls this when it loads the plugin: describe this machine, in the project and not in the user's home.

    The machine's name carries the fingerprint, because asv keeps one file per machine and commit: without it, a part
    measured again after a driver update would relabel the rest. The extra keys become selectors on asv's pages.
    """
    here = _here()
    entry = {key: value for key, value in Machine.get_defaults().items() if key in ("arch", "ram")}
    entry |= {
        "machine": machine_name(),
        "os": here.os,
        "cpu": here.cpu,
        "num_cpu": str(here.cores),
        "torch": here.torch,
        "triton": here.triton,
        "gpu": here.gpu or "none",
        "driver": here.driver or "none",
        "cuda": here.cuda or "none",
    }
    path = environment.repository_root() / ".asv/machine.json"
    path.parent.mkdir(exist_ok=True)
    MachineCollection.get_machine_file_path = staticmethod(lambda: str(path))
    Machine.hardcoded_machine_name = entry["machine"]
    MachineCollection.save(entry["machine"], entry)


def machine_name() -> str:
    """asv's name for this machine and software, a folder name: profile, hardware, fingerprint."""
    here = _here()
    hardware = util.sanitize_filename((here.gpu or here.cpu).replace(" ", "-")).lower()
    return f"{here.profile}-{hardware}-{here.fingerprint[:6]}"


class OverlayEnvironment(Environment):  # type: ignore[misc]
    """This Python for every commit. State lives on disk where asv may copy the object, in memory where it may not."""

    tool_name = "overlay"
    matches_python_fallback = False

    def __init__(self, conf: Any, python: str, requirements: Any, tagged_env_vars: Any) -> None:
        # The base class reads these for the name of its folder.
        self._python = python
        self._requirements: dict[str, str] = {}
        self._executable = sys.executable
        super().__init__(conf, python, {}, tagged_env_vars)
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self._records = Path(getattr(conf, "records_dir", "results/asv-records")).resolve()
        if not getattr(conf, "records_exact", False):
            self._records /= f"{started}-{os.getpid()}"
        self._starts: Counter[tuple[str, str]] = Counter()

    @classmethod
    def matches(cls, python: str) -> bool:
        """Only the Python that runs asv: there is no other with this torch."""
        return bool(python == f"{sys.version_info[0]}.{sys.version_info[1]}")

    def check_presence(self) -> bool:
        """The folder is all that there is to set up."""
        return Path(self._path).is_dir()

    def _setup(self) -> None:
        Path(self._path).mkdir(parents=True, exist_ok=True)

    def install_project(self, conf: Any, repo: Any, commit_hash: str) -> None:
        """Export the packages under test. asv marks the commit as failed on ProcessError and ends on anything else."""
        _hold(Path(self._path))
        folder = self._folder(commit_hash)
        try:
            packages = overlay.export(Path(repo._path), commit_hash, folder)
            self._note(commit_hash, packages, 0).write()
            overlay.prune(folder.parent, KEPT_COMMITS)
        except (OSError, ValueError) as error:
            raise util.ProcessError(["git", "archive", commit_hash], 1, "", str(error)) from error
        self._set_installed_commit_hash(commit_hash)
        self._set_commit_hash(commit_hash)

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run Python with the installed commit's packages first on its path.

        A benchmark that lies outside this machine's profile is answered with NaN (asv shows n/a) without a process.
        """
        commit = self._get_installed_commit_hash()
        folder = self._folder(commit)
        if args[1] == "run":
            benchmark_id, result_file = args[3], args[6]
            if _outside(benchmark_id):
                Path(result_file).write_text("NaN")
                return "", "", 0
            self._note(commit, folder / "packages", self._starts[commit, benchmark_id]).write()
            self._starts[commit, benchmark_id] += 1
        # The suite is today's, so what it consists of is found with today's packages: an old commit need not import.
        path = environment.repository_root() if args[1] == "discover" else folder / "packages"
        # Not through run_executable: it strips the path again, and the import of the commit's packages fails.
        env = {key: value for key, value in kwargs.pop("env", os.environ).items() if key != "TRITON_INTERPRET"}
        env["PYTHONPATH"] = env["ASV_PYTHONPATH"] = str(path)
        env["TRITON_CACHE_DIR"] = str(folder / "triton")
        if _here().profile == "cpu":
            env["TRITON_INTERPRET"] = "1"
        return util.check_output([self._executable, *args], env=env, **kwargs)

    def _folder(self, commit: str) -> Path:
        return Path(self._path) / "commits" / commit

    def _note(self, commit: str, packages: Path, round_: int) -> overlay.Overlay:
        here = _here()
        return overlay.Overlay(commit, str(packages), str(self._records), here.profile, here.fingerprint, round_)


@cache
def _here() -> Any:
    return environment.here()


@cache
def _hold(folder: Path) -> Any:
    """Keep other asv processes out of `folder` until this one ends: which commit is installed is noted there."""
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise util.UserError("another asv is running in this checkout; wait until it has ended") from error
    return lock


def _outside(benchmark_id: str) -> str:
    """Why the series that asv calls `linear.track_seconds-3` is not measured here; empty if it is."""
    name, _, index = benchmark_id.partition("-")
    params = next(itertools.islice(profiles.SUITE[name].combinations(), int(index or 0), None))
    return profiles.outside(_here().profile, name, params)
