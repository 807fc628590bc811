"""Which commit it was, from what paired rounds show of each."""

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from motbench import bisect, trend
from motbench.bisect import Seen
from reports.trend import Commit

COMMITS = [Commit(f"{i:040x}", f"change {i}", ["mot_impl"]) for i in range(12)]
BROKEN = Seen([], failed="ValueError: the norm is off")


def timed(first_bad: int, by: float = 0.05, noise: float = 0.004) -> Callable[[str, int], Seen]:
    """Rounds in which every commit from `first_bad` on is slower."""
    rng = np.random.default_rng(1)

    def look(commit: str, rounds: int) -> Seen:
        shift = math.log1p(by) if int(commit, 16) >= first_bad else 0.0
        return Seen((shift + noise * rng.standard_normal(rounds)).tolist())

    return look


@pytest.mark.parametrize("first_bad", [0, 1, 5, 10, 11])
def test_the_first_slower_commit_is_found(first_bad: int) -> None:
    found = bisect.search(COMMITS, timed(first_bad))
    assert found is not None
    assert [commit.subject for commit in found.suspects] == [f"change {first_bad}"]


def test_the_change_is_said_with_its_interval() -> None:
    found = bisect.search(COMMITS, timed(3))
    assert found is not None
    assert found.change.startswith("slower by +5.")


def test_an_improvement_is_followed_too() -> None:
    found = bisect.search(COMMITS, timed(3, by=-0.05))
    assert found is not None
    assert (found.suspects[0].subject, found.change[:6]) == ("change 3", "faster")


def test_without_a_difference_nothing_is_found() -> None:
    assert bisect.search(COMMITS, timed(99)) is None


def test_noise_asks_for_more_rounds() -> None:
    asked = []
    look = timed(5, by=0.05, noise=0.03)

    def counted(commit: str, rounds: int) -> Seen:
        asked.append(rounds)
        return look(commit, rounds)

    bisect.search(COMMITS, counted)
    assert max(asked) > bisect.ROUNDS[0]


def test_few_commits_are_measured() -> None:
    looked = set()
    look = timed(5)

    def counted(commit: str, rounds: int) -> Seen:
        looked.add(commit)
        return look(commit, rounds)

    bisect.search(COMMITS, counted)
    assert len(looked) <= 5


def test_commits_that_cannot_be_judged_stay_suspects() -> None:
    look = timed(5)
    found = bisect.search(COMMITS, lambda c, n: Seen([], lacking=True) if int(c, 16) in (4, 5) else look(c, n))
    assert found is not None
    assert [commit.subject for commit in found.suspects] == ["change 4", "change 5", "change 6"]


def test_what_broke_is_followed() -> None:
    found = bisect.search(COMMITS, lambda c, n: BROKEN if int(c, 16) >= 7 else Seen([0.0, 0.0]))
    assert found is not None
    assert (found.suspects[0].subject, found.change) == ("change 7", "broke (ValueError: the norm is off)")


def test_a_broken_commit_says_nothing_of_a_slowdown() -> None:
    look = timed(5)
    found = bisect.search(COMMITS, lambda c, n: BROKEN if int(c, 16) == 5 else look(c, n))
    assert found is not None
    assert [commit.subject for commit in found.suspects] == ["change 5", "change 6"]


def test_a_number_that_moved_is_followed() -> None:
    found = bisect.search(COMMITS, lambda c, n: Seen([], 0.9 if int(c, 16) >= 2 else 1.0, 1.0))
    assert found is not None
    assert (found.suspects[0].subject, found.change) == ("change 2", "from 1 to 0.9")


def test_bisect_follows_one_series() -> None:
    with pytest.raises(ValueError, match=r"selects \d+ series; bisect follows one"):
        bisect.only("linear")


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, list[str]]:
    """A repository whose second commit touches a package under test, and whose third does not."""
    hashes = []

    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.invalid", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    for i, name in enumerate(("README", "mot_impl/norm.py", "docs/page.md")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(str(i))
        git("add", ".")
        git("commit", "-q", "-m", f"touch {name}")
        hashes.append(git("rev-parse", "HEAD"))
    return tmp_path, hashes


def test_only_commits_that_touch_the_packages_are_suspect(repository: tuple[Path, list[str]]) -> None:
    root, hashes = repository
    found = trend.between(root, hashes[0], hashes[2])
    assert [(c.subject, c.packages) for c in found] == [
        ("touch mot_impl/norm.py", ["mot_impl"]),
        ("touch docs/page.md", []),
    ]


def test_a_history_without_numbers_is_not_measured(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, hashes = repository
    found = trend.judged(root, tmp_path / "results", "HEAD")
    assert (found.status, found.head) == ("not-measured", hashes[2])


def test_an_unknown_commit_is_refused(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        trend.judged(repository[0], tmp_path / "results", "nowhere")
