"""The main job to its end through real processes: three steps that go wrong in three ways, in a dirty tree."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.motbench.conftest import ROOT, motbench


class Whole:
    """A night that ended: what it printed and what it left."""

    def __init__(self, checkout: Path, done: subprocess.CompletedProcess[str]) -> None:
        self.checkout, self.done, self.results = checkout, done, checkout / "results"
        (self.folder,) = (self.results / "runs").iterdir()
        self.run: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        self.verdict: dict[str, Any] = json.loads((self.folder / "verdict.json").read_text())
        self.page = (self.results / "site/index.html").read_text()
        self.steps: dict[str, dict[str, Any]] = {step["name"]: step for step in self.run["steps"]}
        self.items: dict[str, dict[str, Any]] = {item["subject"]: item for item in self.verdict["items"]}

    @property
    def summary(self) -> str:
        return self.done.stdout.split("verdict and report\n")[1]


@pytest.fixture(scope="module")
def whole(checkout: Path) -> Whole:
    for old in range(7):
        (checkout / f".asv/nightly/{old}").mkdir(parents=True)
    (checkout / "not-committed").touch()
    done = motbench("nightly", cwd=checkout, PATH="/usr/bin:/bin")
    (checkout / "not-committed").unlink()
    assert (done.returncode, done.stderr) == (1, "")
    return Whole(checkout, done)


def test_a_dirty_tree_is_named_and_not_stored(whole: Whole) -> None:
    assert "The tree is dirty: HEAD is measured and shown, but not stored" in whole.done.stdout
    assert whole.run["stored"] is False


def test_a_red_gate_reaches_verdict_summary_and_page(whole: Whole) -> None:
    item = whole.items["linear/qkv fused float32 on cpu"]
    assert (item["status"], whole.verdict["status"]) == ("regressed", "regressed")
    assert item["reason"] in whole.summary
    assert item["reason"] in whole.page
    assert whole.summary.strip().startswith("REGRESSED")
    assert "exit code 1" in whole.summary


def test_a_killed_step_is_not_measured_and_says_so_everywhere(whole: Whole) -> None:
    step = whole.steps["golden"]
    assert (step["status"], step["reason"]) == ("not-measured", "it was killed by SIGKILL")
    assert "step golden: it was killed by SIGKILL" in whole.summary
    assert "it was killed by SIGKILL" in whole.page


def test_what_a_step_printed_is_in_its_log_and_on_the_terminal(whole: Whole) -> None:
    said = "the last thing that the fake said\n"
    assert (whole.folder / "golden.log").read_text() == said
    assert said in whole.done.stdout


def test_the_traceback_of_a_broken_step_lies_in_the_run_folder(whole: Whole) -> None:
    reason = whole.steps["conformance"]["reason"]
    assert reason.startswith("internal error: RuntimeError: the fake is broken; the traceback is in ")
    (traceback,) = whole.folder.glob("traceback-*.txt")
    assert reason.endswith(str(traceback))
    assert "in _broken" in traceback.read_text()


def test_the_log_to_look_at_opens_and_the_step_can_be_repeated_alone(whole: Whole) -> None:
    item = whole.items["step golden"]
    assert item["reproduce"] == "motbench golden check"
    assert (whole.checkout / item["look"]).samefile(whole.folder / "golden.log")
    assert f"look: {item['look']}" in whole.summary


def test_no_time_is_measured_and_every_red_gate_is_named(whole: Whole) -> None:
    asv = whole.steps["asv"]
    reason = "no time is measured while conformance and parity and golden and selftest are not green"
    assert (asv["status"], asv["reason"]) == ("not-measured", reason)


def test_a_shell_without_the_environment_is_told_how_to_enter_it(whole: Whole) -> None:
    venv = sys.prefix != sys.base_prefix
    assert (f"first: . {sys.prefix}/bin/activate" in whole.summary) == venv


def test_packages_of_old_commits_are_removed(whole: Whole) -> None:
    kept = {path.name for path in (whole.checkout / ".asv/nightly").iterdir()}
    assert whole.run["provenance"]["commit"] in kept
    assert len(kept) == 5


def test_a_ruler_from_another_checkout_is_refused_with_both_paths(checkout: Path, tmp_path: Path) -> None:
    done = motbench("step", "parity", str(tmp_path), str(checkout), str(checkout), cwd=ROOT)
    assert done.returncode == 2
    assert f"motbench is imported from {ROOT} but must come from {checkout}; unset PYTHONPATH" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bagel", "mot_impl"])
def test_every_package_under_test_is_proved(checkout: Path, tmp_path: Path, name: str) -> None:
    for package in {"reference_impl", "bagel", "mot_impl"} - {name}:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    path = f"{tmp_path}:{checkout}"
    done = motbench(
        "step", "parity", str(tmp_path), str(tmp_path), str(checkout), cwd=checkout, flags=("-P",), PYTHONPATH=path
    )
    assert (done.returncode, (tmp_path / "parity.jsonl").exists()) == (2, False)
    assert f"{name} is imported from {checkout} but must come from {tmp_path}" in done.stderr


def test_what_a_refusing_step_says_is_one_line(checkout: Path, tmp_path: Path) -> None:
    done = motbench("step", "refused", str(tmp_path), str(checkout), str(checkout), cwd=checkout)
    assert (done.returncode, done.stderr) == (2, "motbench: expected.png is not a PNG but JPEG\n")


def test_keeping_no_picture_is_refused_at_the_door(tmp_path: Path) -> None:
    done = motbench("nightly", "--keep", "0", "--results", str(tmp_path / "results"))
    assert done.returncode == 2
    assert "--keep" in done.stderr
    assert not (tmp_path / "results").exists()


def test_without_torch_the_doctor_answers(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError('libtorch.so: no such file')")
    results = tmp_path / "results"
    done = motbench("nightly", "--results", str(results), cwd=checkout, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (2, "")
    assert "it does not import: libtorch.so: no such file" in done.stdout
    assert "pip install torch" in done.stdout
    assert done.stdout.count("because torch does not import") == 3
    assert not results.exists()
