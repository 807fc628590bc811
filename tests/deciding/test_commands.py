"""`motbench compare` and `motbench gate` from outside: exit codes, files, refusals in one line."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.records import Series, read_json
from motbench import compare as command
from motbench.cli import app
from motbench.exits import guarded
from reports import decide, joint
from reports.decide import Rounds

Made = Callable[..., Rounds]
Command = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def motbench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line, in this process: what a process of its own adds is tested in tests/motbench."""

    def run(*args: object) -> Done:
        code = guarded(lambda: app([str(arg) for arg in args]))
        return Done(code, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("slower", "noise", "code"),
    [
        pytest.param(0.0, 0.002, 0, id="pass"),
        pytest.param(0.05, 0.002, 1, id="regressed"),
        pytest.param(0.0, 0.1, 3, id="inconclusive"),
    ],
)
def test_compare_leaves_with_the_verdict(
    motbench: Command, comparison: Any, rounds: Made, qkv: Series, slower: float, noise: float, code: int
) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds(slower, noise))
    assert motbench("compare", "--records", comparison.folder).returncode == code


def test_a_walk_killed_before_its_first_process_is_not_measured(
    motbench: Command, comparison: Any, qkv: Series
) -> None:
    comparison.asked(qkv)
    assert motbench("compare", "--records", comparison.folder).returncode == 4


def test_gate_writes_every_form(motbench: Command, comparison: Any, rounds: Made, qkv: Series) -> None:
    comparison.asked(qkv)
    comparison.numerics()
    comparison.measured(rounds(0.05))
    done = motbench("gate", "--records", comparison.folder, "--annotations")
    assert done.returncode == 1
    assert "::error title=linear.track_seconds" in done.stdout
    assert {"decision.json", "summary.md", "junit.xml"} <= {path.name for path in comparison.folder.iterdir()}


def test_decision_json_can_be_read_back(motbench: Command, comparison: Any, rounds: Made, qkv: Series) -> None:
    comparison.asked(qkv)
    comparison.numerics()
    comparison.measured(rounds())
    motbench("gate", "--records", comparison.folder)
    document = json.loads((comparison.folder / "decision.json").read_text())
    assert (document["status"], document["decisions"][0]["control"]["status"]) == ("pass", "pass")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        pytest.param(["HEAD"], "two commits are needed", id="one-commit"),
        pytest.param(["HEAD", "nowhere"], "'nowhere' is no commit, branch or tag", id="unknown-commit"),
        pytest.param(["HEAD", "HEAD", "--bench", "nothing"], "selects none of", id="no-series"),
        pytest.param(["HEAD", "HEAD", "--bench", "("], "is no regular expression", id="broken-pattern"),
        pytest.param(["HEAD", "HEAD", "--rounds", "3"], "before which nothing is decided", id="too-few-rounds"),
        pytest.param(["HEAD", "HEAD", "--budget", "0"], "more than 0", id="no-budget"),
        pytest.param(["HEAD", "HEAD", "--matters", "5"], "0.02 is 2 %", id="percent-instead-of-fraction"),
        pytest.param(["--records", "nowhere"], "no such file or directory; check the path", id="no-records"),
    ],
)
def test_wrong_usage_is_one_line(motbench: Command, args: list[str], said: str, tmp_path: Path) -> None:
    done = motbench("compare", *args, "--results", tmp_path / "results")
    assert (done.returncode, done.stderr.count("\n"), said in done.stderr) == (2, 1, True)
    assert not list(tmp_path.rglob("comparison.json"))


@pytest.mark.parametrize("words", [["compare"], ["gate"], ["gate", "--selftest"]], ids=" ".join)
def test_a_broken_comparison_is_one_line_with_the_cure(motbench: Command, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / joint.ASKED).write_text('{"base": ')
    done = motbench(*words, "--records", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / joint.ASKED} does not say what was compared: " in done.stderr
    assert "restore it, or measure again without --records" in done.stderr


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        pytest.param(command.Request(), "round  7 of 12", id="rounds"),
        pytest.param(command.Request(rounds=20, budget_s=60.0), "round  7", id="a budget has no last round"),
    ],
)
def test_a_round_says_how_many_there_are(request_: command.Request, said: str) -> None:
    assert command.turn(6, request_) == said


def test_the_self_test_refuses_records_that_are_no_noise(
    motbench: Command, comparison: Any, rounds: Made, qkv: Series
) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds())
    done = motbench("gate", "--selftest", "--records", comparison.folder)
    assert (done.returncode, "noise is a commit against itself" in done.stderr) == (2, True)


NOISE = {"linear.track_seconds": 0.0002, "norm.track_seconds": 0.004}


def spent(comparison: Any, made: Made, series: list[Series], request: command.Request) -> list[int]:
    """Rounds that each series gets when its processes have the noise of its benchmark; nothing is timed."""
    comparison.asked(*series)
    asked = read_json(comparison.folder / joint.ASKED, joint.Asked)
    noise = [made(noise=NOISE[one.benchmark], n=joint.MOST, seed=i, series=one) for i, one in enumerate(series)]
    counts = [0] * len(series)
    while (chosen := command.next_series(comparison.folder, asked, request, counts)) is not None:
        for side, value in zip(("base", "head", "again"), noise[chosen].seconds[counts[chosen]], strict=True):
            comparison.line(series[chosen], side, counts[chosen], [value])
        counts[chosen] += 1
    return counts


def test_without_a_budget_every_series_gets_its_rounds(comparison: Any, rounds: Made, qkv: Series, rms: Series) -> None:
    assert spent(comparison, rounds, [qkv, rms], command.Request(rounds=6)) == [6, 6]


def test_a_budget_goes_to_the_noisy_series(comparison: Any, rounds: Made, qkv: Series, rms: Series) -> None:
    quiet, noisy = spent(comparison, rounds, [qkv, rms], command.Request(budget_s=1e6))
    assert quiet == decide.LEAST < noisy < joint.MOST


def test_a_series_that_never_works_is_left_alone(comparison: Any, qkv: Series) -> None:
    comparison.asked(qkv)
    asked = read_json(comparison.folder / joint.ASKED, joint.Asked)
    assert command.next_series(comparison.folder, asked, command.Request(), [command.GIVE_UP]) is None
