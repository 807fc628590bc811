"""Rounds of real processes over a throw-away repository; packages from its commits, the suite from this checkout."""

import itertools
import shutil
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.harness import environment
from benchmarks.harness.records import Failure, Series, Timing, read_lines
from benchmarks.harness.rounds import ORDERS, Walk

ROOT = environment.repository_root()
RMS = Series(
    "norm.track_seconds",
    {
        "kind": "rms",
        "impl": "reference",
        "shape": "small" if environment.here().profile == "cpu" else "1026",
        "cache": "hot",
    },
)


def commit(folder: Path, message: str) -> str:
    name = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    environment.git(folder, "add", "--all")
    environment.git(folder, *name, "commit", "--quiet", "--allow-empty", f"--message={message}")
    return environment.git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Three commits: no package at all; the reference as it is; a reference whose norm raises."""
    folder = tmp_path_factory.mktemp("rounds")
    environment.git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / ".gitignore").write_text(".asv\n")
    commits = {"empty": commit(folder, "empty")}
    shutil.copytree(ROOT / "reference_impl", folder / "reference_impl", ignore=shutil.ignore_patterns("__pycache__"))
    commits["reference"] = commit(folder, "reference")
    with (folder / "reference_impl/norm.py").open("a") as norm:
        norm.write('\n\ndef _normalise(*_):\n    raise RuntimeError("broken on purpose")\n')
    commits["broken"] = commit(folder, "broken")
    package = folder / "reference_impl/__init__.py"
    package.write_text("import os, signal\n\nos.kill(os.getpid(), signal.SIGKILL)\n")
    commits["killed"] = commit(folder, "killed as the kernel does when memory runs out")
    package.write_text("def half(:\n")
    commits["no python"] = commit(folder, "a package that does not import")
    return folder, commits


def walked(
    repository: tuple[Path, dict[str, str]], records: Path, base: str, head: str, timeout_s: float = 300.0
) -> tuple[list[Timing], list[Failure]]:
    folder, commits = repository
    Walk(folder, records, commits[base], commits[head], environment.here(), timeout_s).round(RMS, 1)
    return read_lines(records / "timing.jsonl", Timing)[0], read_lines(records / "failures.jsonl", Failure)[0]


@pytest.fixture(scope="module")
def half_broken(
    repository: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Timing], list[Failure]]:
    return walked(repository, tmp_path_factory.mktemp("records"), "reference", "broken")


def test_each_process_records_round_side_and_order(half_broken: tuple[list[Timing], list[Failure]]) -> None:
    assert [(line.round, line.side, line.order) for line in half_broken[0]] == [(1, "again", 1), (1, "base", 2)]


def test_both_sides_of_the_control_are_the_base_commit(
    repository: tuple[Path, dict[str, str]], half_broken: tuple[list[Timing], list[Failure]]
) -> None:
    assert {line.commit for line in half_broken[0]} == {repository[1]["reference"]}


def test_sides_are_different_processes(half_broken: tuple[list[Timing], list[Failure]]) -> None:
    assert len({line.pid for line in half_broken[0]}) == 2


def test_a_process_that_breaks_leaves_its_last_words(half_broken: tuple[list[Timing], list[Failure]]) -> None:
    assert [(one.side, one.kind, one.reason) for one in half_broken[1]] == [
        ("head", "broken", "RuntimeError: broken on purpose")
    ]


def test_a_commit_without_the_package_is_absent(repository: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    _, failures = walked(repository, tmp_path, "empty", "empty")
    assert {(one.kind, one.reason[-27:]) for one in failures} == {("absent", "has no package reference_impl"[-27:])}


def test_a_process_that_takes_too_long_is_ended(repository: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    lines, failures = walked(repository, tmp_path, "reference", "reference", timeout_s=0.05)
    assert (lines, [one.kind for one in failures]) == ([], ["timeout"] * 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("killed", "it was killed by SIGKILL; was there too little memory?"),
        ("no python", "SyntaxError: invalid syntax"),
    ],
)
def test_a_process_that_dies_is_a_failure_of_its_own(
    repository: tuple[Path, dict[str, str]], tmp_path: Path, name: str, reason: str
) -> None:
    timings, failures = walked(repository, tmp_path, name, name)
    assert (timings, [(failure.kind, failure.reason) for failure in failures]) == ([], [("broken", reason)] * 3)


def test_every_side_stands_equally_often_in_every_place() -> None:
    places = Counter((side, place) for order in ORDERS for place, side in enumerate(order))
    assert set(places.values()) == {2}


def test_every_side_follows_each_other_equally_often() -> None:
    follows = Counter(pair for order in ORDERS for pair in itertools.pairwise(order))
    assert set(follows.values()) == {2}
