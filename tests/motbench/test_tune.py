"""`motbench tune` on a CPU, where it tunes the interpreter: interrupted, resumed, read back; and what it refuses."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from benchmarks.harness.tuner_journal import Journal
from mot_impl.tiles import TileTable
from motbench.tune import tune
from reference_impl.contract import Problem

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests/data/bagel_oracle/checkpoint"
ASKED = ["--model", str(CHECKPOINT), "--dtype", "fp16", "--device", "cpu", "--ops", "o", "--shapes"]


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "motbench", "tune", *ASKED, *options, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, tuple[int, str, str]]:
    """Interrupted after the first of two points, and typed again."""
    folder = tmp_path_factory.mktemp("tiles")
    first = start(folder, "20:2,3:3")
    said = next(line for line in first.stdout if line.startswith("[1/2"))
    first.send_signal(signal.SIGINT)
    interrupted = finish(first)
    kept = len(TileTable.load(folder).files[0].entries)
    again = finish(start(folder, "20:2,3:3"))
    return {"folder": folder, "said": said, "first": interrupted, "kept": kept, "again": again}


def test_an_interrupted_run_keeps_what_it_has(told):
    code, _, err = told["first"]
    assert (code, told["kept"], err) == (130, 1, "")


def test_typed_again_it_measures_what_is_missing(told):
    code, out, _ = told["again"]
    assert (code, "1 of 2 points are in" in out, "[1/1" in out) == (0, True, True)


def test_a_line_says_how_far_it_is_and_how_long_it_takes(told):
    assert re.match(r"\[1/2, \d+ s left\] o 20:2, any rows: \d+x\d+x\d+ w4 s1 [\d.]+ us", told["said"])


def test_the_tile_file_is_read_as_a_users_folder(told):
    problem = Problem("linear", 20, 64, 64, torch.float16, torch.device("cpu"))
    assert TileTable.load(told["folder"]).choose(problem).origin == "user: cpu.json, M=20"


def test_the_comparison_has_a_row_for_each_point(told):
    rows = (told["folder"] / "cpu.md").read_text().count("| linear | float16 |")
    assert (rows, "geometric mean" in told["again"][1]) == (2, True)


def test_the_journal_holds_every_candidates_samples(told):
    results = Journal(told["folder"] / "cpu.float16.jsonl").results()
    assert len(results) == 2
    assert all(entrant.seconds for result in results.values() for entrant in result.entrants)


@pytest.mark.parametrize("change", ["seed", "kernels"])
def test_results_of_another_run_are_not_mixed_in(told, change):
    run = next(line.run for line in Journal(told["folder"] / "cpu.float16.jsonl").lines() if line.run)
    if change == "seed":
        other = dataclasses.replace(run, provenance=dataclasses.replace(run.provenance, seed=1))
    else:
        other = dataclasses.replace(run, kernels="others")
    with pytest.raises(ValueError, match="results are not mixed: delete it, or name another --out"):
        Journal.at(told["folder"], other)


def test_points_that_time_did_not_reach_are_not_measured(tmp_path, capsys):
    asked = {"model": str(CHECKPOINT), "dtype": "fp16", "device": "cpu", "ops": "o", "shapes": "20:2"}
    with pytest.raises(typer.Exit) as left:
        tune(**asked, minutes=0.0001, out=tmp_path)
    assert (left.value.exit_code, "not measured: o 20:2; type it" in capsys.readouterr().out) == (4, True)


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"dtype": "fp4"}, "dtype 'fp4' has no tuned tiles; use bf16, fp16, fp8 or int8", id="dtype"),
        pytest.param({"dtype": "bf16"}, "dtype bf16 on a CPU: .* use fp16 there, or a GPU", id="bf16-on-a-cpu"),
        pytest.param({"dtype": "fp8"}, "dtype fp8 on a CPU: .* use fp16 there, or a GPU", id="fp8-on-a-cpu"),
        pytest.param({"model": "nowhere"}, "nowhere is not a folder", id="model"),
        pytest.param({"ops": "q"}, "layer q is unknown; use one of qkv, o, gate_up, down", id="ops"),
        pytest.param({"shapes": "0"}, "shape '0' must be ROWS", id="shapes"),
        pytest.param({"tp": 3}, "do not divide among 3 ranks", id="tp"),
        pytest.param({"minutes": 0.0}, "minutes is 0.0 but must be positive", id="minutes"),
        pytest.param({"device": "cuda"}, "torch sees no GPU", id="no-gpu", marks=NO_GPU),
        pytest.param({"compile_only": True, "capability": 75}, "capability 75 is not one of 80, 90, 100", id="chip"),
    ],
)
def test_bad_input_is_refused(change, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # --compile-only takes it away
    asked = {"model": "bagel-7b", "dtype": "fp16", "device": "cpu", "out": tmp_path / "out"} | change
    with pytest.raises((ValueError, OSError), match=message):
        tune(**asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_compile_only_lists_every_candidate_and_what_becomes_of_it(tmp_path, monkeypatch, capsys, dtype):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tune(str(CHECKPOINT), dtype, ops="o", shapes="16:16", compile_only=True, capability=80)
    point, *tiles = capsys.readouterr().out.splitlines()
    assert (point, len(tiles) > 3) == ("o 16:16", True)
    assert all(re.match(r"  (measured|left out)\s+\d+x\d+x\d+ w\d s\d.*\d+ registers", line) for line in tiles)
