"""The packages under test of one commit, on disk beside a note that says what they are.

    .asv/env/<environment>/commits/<commit>/
        packages/      reference_impl, mot_impl, bagel of that commit, and nothing else: its old `benchmarks` would
                       shadow today's
        triton/        TRITON_CACHE_DIR: a compiled kernel or a choice must not leak between commits
        overlay.json   Overlay

Whoever starts a measuring process puts `packages` first on its path; the process reads overlay.json from there, and
refuses to measure a package from anywhere else: an editable install can win over the path.
"""

import importlib
import json
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from benchmarks.harness.environment import git
from benchmarks.harness.records import from_dict, write_json

PACKAGES = ("reference_impl", "mot_impl", "bagel")
"""What an old commit brings. Everything else is the ruler and comes from today's checkout."""


@dataclass(frozen=True)
class Overlay:
    """What a measuring process must know about the commit that it measures.

    commit       full hash
    packages     folder that holds the packages under test
    records      folder that timing.jsonl grows in
    profile      "cpu" or "gpu"
    fingerprint  of the machine and software, records.Environment.fingerprint
    round        how many times this benchmark and parameters were started before for this commit; rounds pair commits
    side, order  in a comparison (harness/rounds.py): which side of the round, and its place in the round
    """

    commit: str
    packages: str
    records: str
    profile: Literal["cpu", "gpu"]
    fingerprint: str
    round: int = 0
    side: str = ""
    order: int = 0

    def write(self) -> None:
        """Write overlay.json beside the packages."""
        write_json(Path(self.packages).parent / "overlay.json", self)

    def package(self, name: str) -> ModuleType:
        """Import a package under test, proving that it comes from this commit.

        Raises NotImplementedError if the commit does not have it (asv shows n/a), ValueError if Python finds another.
        """
        expected = Path(self.packages) / name
        if not (expected / "__init__.py").exists():
            raise NotImplementedError(f"commit {self.commit[:8]} has no package {name}")
        module = importlib.import_module(name)
        found = Path(module.__file__ or "nowhere").resolve().parent
        if found != expected.resolve():
            raise ValueError(f"{name} was imported from {found} but must come from {expected}; unset PYTHONPATH")
        return module


def current() -> Overlay:
    """The overlay that this process was started with. Raises ValueError if there is none."""
    for entry in sys.path:
        note = Path(entry).parent / "overlay.json"
        if entry and note.exists():
            overlay: Overlay = from_dict(Overlay, json.loads(note.read_text()))
            if Path(overlay.packages).resolve() == Path(entry).resolve():
                return overlay
    raise ValueError("no overlay.json beside any folder of sys.path; run benchmarks with `asv run`, not directly")


def export(root: Path, commit: str, folder: Path) -> Path:
    """Write the packages under test of `commit` to folder/packages, once; return that folder.

    A package that the commit lacks is absent. Takes well under a second. Raises ValueError if git does not know the
    commit.
    """
    packages = folder / "packages"
    if packages.exists():
        return packages
    folder.mkdir(parents=True, exist_ok=True)
    present = git(root, "ls-tree", "--name-only", commit, "--", *PACKAGES).split()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        partial = Path(scratch) / "packages"
        partial.mkdir()
        if present:
            archive = Path(scratch) / "packages.tar"
            git(root, "archive", "--format=tar", f"--output={archive}", commit, "--", *present)
            with tarfile.open(archive) as tar:
                tar.extractall(partial, filter="data")
        partial.rename(packages)
    return packages


def prune(commits: Path, keep: int) -> None:
    """Delete all but the `keep` folders of `commits` that were written to last; there may be no `commits` yet."""
    by_age = sorted(commits.glob("*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in by_age[keep:]:
        shutil.rmtree(folder, ignore_errors=True)
