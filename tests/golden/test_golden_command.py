"""`motbench golden` as a process, in a clone of its own: exit codes and what is said."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.environment import repository_root
from benchmarks.harness.records import Golden, Status
from motbench.golden.check import exit_code
from motbench.golden.listing import list_cases
from tests.golden.conftest import FACTS, REQUEST, change, commit

PACKAGES = ("reference_impl", "mot_impl", "bagel", "benchmarks", "motbench", "reports")
CHECKPOINT = "tests/data/bagel_oracle/checkpoint"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and the checkpoint in a git repository, with two cases that have no golden."""
    root = tmp_path_factory.mktemp("clone")
    for folder in (*PACKAGES, CHECKPOINT):
        shutil.copytree(repository_root() / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, prompt in (("small", "a red cat"), ("other", "a dog")):
        case = root / "golden_images" / name
        case.mkdir(parents=True)
        request = {**REQUEST, "checkpoint": CHECKPOINT, "prompt": prompt}
        (case / "case.json").write_text(json.dumps({**FACTS, "request": request, "interpreter": name == "small"}))
    (root / ".gitignore").write_text("__pycache__/\n")
    commit(root)
    return root


def golden(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return motbench(clone, "golden", *words)


def motbench(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "motbench", *words],
        env={**environment, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"},
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_life_of_a_golden(clone: Path) -> None:
    """Limits, approval, agreement of both implementations, refused approvals: the exit code of each."""
    done = golden(clone, "accept", "small", "other", "--reason", "the first ones")
    assert (done.returncode, "were set by hand" in done.stdout) == (1, True)

    done = golden(clone, "calibrate", "--runs", "6", "--dtype", "float32", "--reason", "the first ones")
    assert (done.returncode, "set by Ada <ada@example.org>" in done.stdout) == (0, True), done.stderr
    commit(clone, "measured limits")
    done = golden(clone, "accept", "small", "other", "--reason", "the first ones")
    assert (done.returncode, "accepted by Ada <ada@example.org>" in done.stdout) == (0, True)

    done = golden(clone, "check", "--json", "all.json", "--out", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((clone / "all.json").read_text())
    assert [(r["impl"], r["against"], r["status"]) for r in records] == [
        ("reference", "golden", "pass"),
        ("reference", "golden", "pass"),
        ("fused", "reference", "pass"),
        ("fused", "golden", "pass"),
    ]

    kernels = (
        "import dataclasses, reference_impl\nfrom reference_impl.contract import Experts\nR = reference_impl.OPS\n"
    )
    kernels += "OPS = dataclasses.replace(R, linear=lambda x, e, r: R.linear(x, Experts(e.weight), r))\n"
    (clone / "kernels.py").write_text(kernels)
    commit(clone, "the golden and my kernels")
    done = golden(clone, "accept", "small", "--reason", "mine is better", "--impl", "kernels:OPS")
    assert (done.returncode, "does not confirm" in done.stdout) == (1, True)


def test_a_failing_check_names_one_picture_and_working_commands(clone: Path, tmp_path: Path) -> None:
    """Kernels that raise, and kernels that are wrong: the trace command that is named leaves with 1 too."""
    linear = {"raises": "1 // 0", "wrong": "reference_impl.OPS.linear(x, e, r) * 1.2"}
    kernels = "import dataclasses, reference_impl\n"
    for name, result in linear.items():
        kernels += f"{name} = dataclasses.replace(reference_impl.OPS, linear=lambda x, e, r: {result})\n"
    other = Path(shutil.copytree(clone, tmp_path / "clone"))
    (other / "theirs.py").write_text(kernels)

    done = golden(other, "check", "--case", "small", "--impl", "theirs:raises")
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
    assert "small theirs:raises against reference: no picture was made: ZeroDivisionError: " in done.stdout

    done = golden(other, "check", "--case", "small", "--impl", "theirs:wrong", "--out", "my out")
    assert done.returncode == 1, done.stderr
    said = [
        line.strip() for line in done.stdout.split("regressed: small theirs:wrong against reference: ")[1].split("\n")
    ]
    words = "--impl theirs:wrong --device cpu --dtype float32"
    assert said[1:4] == [
        "look at my out/pictures/small-theirs_wrong-float32-against-reference-side_by_side.png",
        f"type    motbench golden check --case small {words} --out 'my out'",
        f"or      motbench trace small {words}",
    ]
    done = motbench(other, *said[3].split()[2:], "--runs", "1")
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
    assert "small theirs:wrong against reference: outside: first at " in done.stdout


def test_an_unreadable_golden_is_one_line(clone: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(clone, tmp_path / "clone"))
    (other / "golden_images/small/expected.png").write_bytes(b"\xff\xd8\xff")
    change(other / "golden_images/small", interpreter=False)
    done = golden(other, "check", "--impl", "reference", "--out", "other")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "expected.png is not a PNG but JPEG" in done.stderr
    assert not (other / "other").exists()


def test_approval_without_a_reason_is_one_line(clone: Path) -> None:
    done = golden(clone, "accept", "small")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "a golden needs a reason" in done.stderr


def test_packages_from_elsewhere_are_not_approved(clone: Path, tmp_path: Path) -> None:
    shutil.copytree(clone / "bagel", tmp_path / "bagel")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{clone}"}
    command = [sys.executable, "-P", "-m", "motbench", "golden", "accept", "small", "--reason", "because"]
    done = subprocess.run(command, env=environment, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"bagel was imported from {tmp_path}" in done.stderr


def test_the_list_names_case_prompt_and_approver(capsys: pytest.CaptureFixture[str]) -> None:
    list_cases()
    said = capsys.readouterr().out
    assert "t2i-few-updates: t2i, 128 x 128, 5 steps, seed 6, interpreter\n" in said
    assert "img2img-few-updates: img2img, 128 x 128, 5 steps, seed 7, interpreter\n" in said
    assert "  prompt    'a red square in the centre on a purple background'\n" in said
    assert said.count("  approved  20") == said.count("  prompt ")


def judged(*statuses: Status) -> list[Golden]:
    empty: dict[str, Any] = {"metrics": {}, "limits": {}, "metric_versions": {}, "pictures": {}}
    text = dict.fromkeys(("case", "prompt", "impl", "reason", "reproduce"), "")
    return [
        Golden(**text, **empty, task="t2i", against="golden", status=status, identical=False, seconds=0.0)
        for status in statuses
    ]


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        pytest.param(("pass", "pass"), 0, id="all-pass"),
        pytest.param(("pass", "not-measured"), 4, id="one-missing"),
        pytest.param(("not-measured", "regressed"), 1, id="disagreeing-weighs-more"),
        pytest.param((), 4, id="nothing-judged"),
    ],
)
def test_exit_code(statuses: tuple[Status, ...], code: int) -> None:
    assert exit_code(judged(*statuses)) == code


def test_check_says_in_which_precision_it_judged(clone: Path) -> None:
    done = golden(clone, "check", "--case", "small", "--impl", "reference", "--quantise", "int8", "--out", "out")
    assert "reference against golden, float32-int8 on cpu" in done.stdout, done.stderr
    assert "within their limits in float32-int8 on cpu; pictures in" in done.stdout.splitlines()[-1]
