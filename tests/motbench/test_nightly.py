"""The main job: steps in order, one run at a time, nothing measured behind a red gate or from the wrong packages."""

import fcntl
import shutil
from pathlib import Path

import pytest

from benchmarks.harness import environment
from benchmarks.harness.records import Check
from motbench import nightly, steps
from tests.motbench.conftest import ROOT, motbench


@pytest.fixture
def night(tmp_path: Path) -> nightly.Night:
    provenance = environment.provenance(ROOT, seed=0, command="test")
    return nightly.Night(ROOT, tmp_path, tmp_path / "runs" / "one", provenance)


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.doctor.examine", lambda root: [Check("python", "ok", "3.11")])


def test_a_second_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = motbench("nightly", "--results", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "another run is writing" in done.stderr


def test_a_refused_run_leaves_nothing_half_written(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        motbench("nightly", "--results", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_step_refuses_packages_from_elsewhere(tmp_path: Path) -> None:
    done = motbench("step", "parity", str(tmp_path), str(tmp_path / "packages"), str(ROOT))
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "reference_impl is imported from" in done.stderr


def test_an_unknown_step_is_wrong_usage(tmp_path: Path) -> None:
    assert motbench("step", "dance", str(tmp_path), str(ROOT), str(ROOT)).returncode == 2


def test_a_failed_doctor_ends_the_run(night: nightly.Night, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Check("numpy", "failed", "2.4.1", "install numpy<2.4")
    monkeypatch.setattr("benchmarks.harness.doctor.examine", lambda root: [failed])
    steps = list(nightly._steps(night))
    assert [(step.name, step.status) for step in steps] == [("doctor", "not-measured")]
    assert steps[0].reason == "numpy: 2.4.1; install numpy<2.4"


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize("red", nightly.GATES)
def test_no_time_is_measured_behind_a_red_gate(night: nightly.Night, red: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nightly, "measured", lambda night, name: ("regressed" if name == red else "pass", ""))
    *gates, asv = nightly._steps(night)
    assert [step.name for step in gates] == ["doctor", *nightly.GATES]
    assert (asv.status, asv.reason) == ("not-measured", f"no time is measured while {red} is not green")


@pytest.mark.usefixtures("healthy")
def test_a_gate_that_breaks_is_not_measured(night: nightly.Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nightly, "STEP_LIMIT_S", 0.01)
    steps = {step.name: step for step in nightly._steps(night)}
    assert steps["parity"].status == "not-measured"
    assert steps["parity"].reason == "it took longer than 0.01 s and was ended"


def test_the_series_of_the_profile_are_recorded(night: nightly.Night) -> None:
    next(iter(nightly._steps(night)))
    assert (night.folder / "series.json").exists()


def test_a_golden_case_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    for name in ("t2i-unguided", "t2i-usual"):
        shutil.copytree(ROOT / "golden_images" / name, tmp_path / name)
    (tmp_path / "t2i-usual/case.json").write_text("{")
    cases, _, broken = steps._golden_cases(tmp_path)
    assert [case.name for case in cases] == ["t2i-unguided"]
    assert [str(tmp_path / "t2i-usual/case.json") in str(error) for error in broken] == [True]
