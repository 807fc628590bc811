"""`motbench golden selftest`: what it keeps when time is over or a run breaks, and that processes share the runs."""

import json
from pathlib import Path

import pytest

from benchmarks.harness.selftest import Outcome
from benchmarks.harness.selftest_plan import Task
from motbench.exits import Exit
from motbench.golden.selftest import Judged, Pace, _made
from tests.motbench.conftest import motbench

JUDGED = Judged("reference", "cpu", "float32")
CASE = "t2i-few-updates"
LACKING = Task("no-such-case", 0, ("wrong seed",), 1, ())
SOUND = Task(CASE, 0, ("wrong seed", "red for blue"), 1, ())


def made(tasks: list[Task], jobs: int) -> tuple[list[Outcome], list[BaseException]]:
    failures: list[BaseException] = []
    outcomes = [outcome for some in _made(JUDGED, tasks, Pace(jobs), failures) for outcome in some]
    return outcomes, failures


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_that_breaks_leaves_the_others(jobs: int) -> None:
    outcomes, failures = made([LACKING, SOUND], jobs)
    assert sorted(outcome.name for outcome in outcomes) == ["red for blue", "wrong seed"]
    assert ["no-such-case" in str(failure) for failure in failures] == [True]


def test_processes_see_what_one_sees() -> None:
    (alone, _), (shared, _) = made([SOUND], 1), made(SOUND.split(2), 2)
    assert sorted(shared, key=lambda one: one.name) == sorted(alone, key=lambda one: one.name)


def test_no_run_is_begun_when_time_is_over(tmp_path: Path) -> None:
    record = tmp_path / "selftest.json"
    what = ("--fault", "wrong seed", "--case", CASE)
    done = motbench("golden", "selftest", *what, "--minutes", "0", "--json", str(record))
    assert done.returncode == Exit.NOT_MEASURED, done.stderr
    assert "1 of 1 runs were not made" in json.loads(record.read_text())["reason"]


@pytest.mark.parametrize(
    ("words", "form"),
    [
        (("--case", CASE), "some cases"),
        (("--case", CASE, "--fault", "wrong seed"), "some cases"),
        (("--fault", "wrong seed"), "some faults"),
        (("--reduced", "--case", CASE), "reduced"),
        ((), "full"),
    ],
    ids=["case", "case-and-fault", "fault", "reduced", "everything"],
)
def test_the_form_says_what_was_asked(tmp_path: Path, words: tuple[str, ...], form: str) -> None:
    record = tmp_path / "selftest.json"
    motbench("golden", "selftest", *words, "--minutes", "0", "--json", str(record))
    assert json.loads(record.read_text())["form"] == form
