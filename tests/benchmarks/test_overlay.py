import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import environment, overlay
from benchmarks.harness.overlay import Overlay

ROOT = environment.repository_root()


def make_repository(folder: Path, *commits: dict[str, str]) -> list[str]:
    """A git repository whose commits hold exactly these files; returns their hashes."""
    environment_ = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    hashes = []
    for number, files in enumerate(commits):
        git(folder, "rm", "-r", "--quiet", "--ignore-unmatch", ".")
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        git(folder, "add", "--all")
        git(folder, *environment_, "commit", "--quiet", "--allow-empty", f"--message=commit {number}")
        hashes.append(git(folder, "rev-parse", "HEAD"))
    return hashes


def git(folder: Path, *args: str) -> str:
    return environment.git(folder, *args)


@pytest.fixture
def exported(tmp_path):
    files = {"reference_impl/__init__.py": "VALUE = 1\n", "benchmarks/__init__.py": "", "bagel/sub/part.py": ""}
    (commit,) = make_repository(tmp_path / "repository", files)
    return commit, overlay.export(tmp_path / "repository", commit, tmp_path / "overlay")


def note(commit: str, packages: Path) -> Overlay:
    return Overlay(commit, str(packages), str(packages.parent / "records"), "cpu", "0123456789ab")


def test_export_holds_only_the_packages_under_test(exported):
    assert sorted(path.name for path in exported[1].iterdir()) == ["bagel", "reference_impl"]


def test_export_is_done_once(exported, tmp_path):
    commit, packages = exported
    marker = packages / "marker"
    marker.touch()
    overlay.export(tmp_path / "repository", commit, tmp_path / "overlay")
    assert marker.exists()


def test_export_of_an_unknown_commit_leaves_nothing(tmp_path):
    make_repository(tmp_path / "repository", {"bagel/__init__.py": ""})
    with pytest.raises(ValueError, match="git ls-tree"):
        overlay.export(tmp_path / "repository", "0" * 40, tmp_path / "overlay")
    assert list((tmp_path / "overlay").iterdir()) == []


def test_commit_without_any_package_exports_an_empty_folder(tmp_path):
    (commit,) = make_repository(tmp_path / "repository", {"README.md": ""})
    assert list(overlay.export(tmp_path / "repository", commit, tmp_path / "overlay").iterdir()) == []


def test_commits_unused_longest_are_pruned(tmp_path):
    for age, name in enumerate(("new", "older", "oldest")):
        (tmp_path / name / "triton").mkdir(parents=True)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    overlay.prune(tmp_path, keep=2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["new", "older"]


def test_process_finds_the_note_beside_its_packages(exported, monkeypatch):
    note(*exported).write()
    monkeypatch.syspath_prepend(str(exported[1]))
    assert overlay.current() == note(*exported)


def test_process_without_overlay_is_refused():
    with pytest.raises(ValueError, match="run benchmarks with `asv run`"):
        overlay.current()


def test_package_that_the_commit_lacks_is_not_implemented_there(exported):
    with pytest.raises(NotImplementedError, match="has no package mot_impl"):
        note(*exported).package("mot_impl")


def test_package_from_elsewhere_is_refused(exported):
    # This process has imported the checkout's own reference_impl, as an editable install would bring it.
    with pytest.raises(ValueError, match="must come from"):
        note(*exported).package("reference_impl")


def test_package_of_the_commit_is_imported_before_the_editable_one(exported):
    note(*exported).write()
    code = "from benchmarks.harness import overlay; print(overlay.current().package('reference_impl').VALUE)"
    env = {"PYTHONPATH": f"{exported[1]}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd="/", check=True)
    assert done.stdout.strip() == "1"
