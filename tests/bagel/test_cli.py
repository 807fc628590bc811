"""The commands as a user types them, each in its own process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "bagel_oracle"
CHECKPOINT = str(DATA / "checkpoint")
INPUT = str(DATA / "cases" / "inputs" / "edit_input.png")


def motbench(*args: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it as a user does, with the folder `path` of theirs importable."""
    command = [sys.executable, "-m", "motbench", *map(str, args)]
    environment = os.environ | ({"PYTHONPATH": f"{path}:{ROOT}"} if path else {})
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_generate_replays_a_stored_run_from_its_noise(tmp_path: Path) -> None:
    case = DATA / "cases" / "t2i_base"
    stored = load_file(case / "tensors.safetensors")
    save_file({"init_noise": stored["init_noise"]}, tmp_path / "noise.safetensors")
    prompt = json.loads((case / "case.json").read_text())["prompt"]
    size = ("--height", 64, "--width", 64, "--steps", 8)
    files = ("--init-noise", tmp_path / "noise.safetensors", "--trace", tmp_path / "trace.safetensors")
    out = tmp_path / "new folder" / "out.png"
    done = motbench("generate", "--checkpoint", CHECKPOINT, "--prompt", prompt, *size, *files, "--out", out)
    assert done.returncode == 0, done.stderr
    trace = load_file(tmp_path / "trace.safetensors")
    assert set(trace) == {"x_t", "v_t", "final_latents", "decoded_raw"}
    assert (trace["final_latents"] - stored["final_latents"]).abs().max() <= 3e-5
    ours, theirs = (np.array(Image.open(path)).astype(int) for path in (out, case / "output.png"))
    assert np.abs(ours - theirs).max() <= 1


def test_generate_says_what_the_experts_are_kept_in(tmp_path: Path) -> None:
    size = ("--height", 16, "--width", 16, "--steps", 2)
    out = tmp_path / "out.png"
    done = motbench("generate", "--checkpoint", CHECKPOINT, "--prompt", "", *size, "--quantise", "int8", "--out", out)
    assert f"wrote {out}: 16 x 16, 1 update, reference float32 and int8 on cpu" in done.stdout


def test_understand_prints_the_stored_ids() -> None:
    facts = json.loads((DATA / "cases" / "und_text" / "case.json").read_text())
    prompt = ("--prompt", facts["prompt"], "--max-tokens", facts["params"]["max_length"], "--ids")
    done = motbench("understand", "--checkpoint", CHECKPOINT, *prompt)
    assert [int(word) for word in done.stdout.split()] == facts["generated_ids"]


def test_parity_reports_fields_and_writes_records(tmp_path: Path) -> None:
    done = motbench("parity", DATA, "--case", "t2i_nocfg", "--case", "schedules", "--json", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    assert "final_latents" in done.stdout
    assert "2 of 2 cases within their limits" in done.stdout
    assert [record["case"] for record in json.loads((tmp_path / "p.json").read_text())] == ["t2i_nocfg", "schedules"]


def test_parity_of_skipped_cases_alone_is_not_measured() -> None:
    done = motbench("parity", DATA, "--case", "und_text", "--dtype", "bfloat16")
    assert done.returncode == 4
    assert "skipped, not passed: und_text" in done.stdout


def test_parity_outside_its_limits_exits_with_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").symlink_to(DATA / "checkpoint")
    cases = tmp_path / "cases"
    cases.mkdir()
    (cases / "t2i_base").symlink_to(DATA / "cases" / "t2i_base")
    table = json.loads((DATA / "cases" / "schedules.json").read_text())
    table["schedules"][0]["t"][1] += 0.001
    (cases / "schedules.json").write_text(json.dumps(table))
    done = motbench("parity", tmp_path, "--case", "schedules")
    assert done.returncode == 1
    assert "outside: schedules" in done.stdout


@pytest.mark.parametrize(
    ("result", "says"),
    [("1 // 0", "ZeroDivisionError: "), ("x * float('nan')", "the decoded picture holds ")],
    ids=["raises", "nan"],
)
def test_parity_of_an_op_that_gives_nothing_is_outside_and_the_others_go_on(
    tmp_path: Path, result: str, says: str
) -> None:
    ops = f"dataclasses.replace(reference_impl.OPS, rms_norm=lambda x, *rest: {result})"
    (tmp_path / "theirs.py").write_text(f"import dataclasses, reference_impl\nOPS = {ops}\n")
    asked = ("parity", DATA, "--case", "t2i_nocfg", "--case", "schedules", "--impl", "theirs:OPS")
    done = motbench(*asked, "--json", tmp_path / "p.json", path=tmp_path)
    assert done.returncode == 1, done.stderr
    assert f"no result: {says}" in done.stdout
    assert "1 of 2 cases within their limits; outside: t2i_nocfg" in done.stdout
    assert [one["error"].startswith(says) for one in json.loads((tmp_path / "p.json").read_text())] == [True, False]


def test_bad_size_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    wanted = ("--height", 60, "--width", 64, "--out", tmp_path / "o.png", "--trace", tmp_path / "t.safetensors")
    done = motbench("generate", "--checkpoint", CHECKPOINT, "--prompt", "x", *wanted)
    refused(done, "height 60 is not a multiple of 16; use 64")
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_no_png_is_refused_at_once(tmp_path: Path) -> None:
    done = motbench("generate", "--checkpoint", CHECKPOINT, "--prompt", "x", "--out", tmp_path / "o.jpg")
    refused(done, "does not end with .png")


def test_input_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_text("not a picture")
    wanted = ("--image", tmp_path / "in.png", "--out", tmp_path / "o.png")
    refused(motbench("generate", "--checkpoint", CHECKPOINT, "--prompt", "x", *wanted), "cannot be read")


def test_a_quantised_checkpoint_makes_the_picture_that_quantising_while_loading_makes(tmp_path: Path) -> None:
    done = motbench("quantise", "--checkpoint", CHECKPOINT, "--out", tmp_path / "fp8", "--kind", "fp8")
    assert done.returncode == 0, done.stderr
    assert "28 weights in fp8" in done.stdout
    size = ("--prompt", "x", "--height", 64, "--width", 64, "--steps", 3)
    for name, source in (("a.png", (tmp_path / "fp8",)), ("b.png", (CHECKPOINT, "--quantise", "fp8"))):
        done = motbench("generate", "--checkpoint", *source, *size, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_unknown_kind_is_refused_at_once(tmp_path: Path) -> None:
    asked = ("--prompt", "x", "--quantise", "int4", "--out", tmp_path / "o.png")
    refused(motbench("generate", "--checkpoint", CHECKPOINT, *asked), "quantise to one of fp8, int8")


def test_calibrated_scales_are_written_and_what_they_cost_is_told(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(Path(INPUT).read_bytes())
    requests = [{"prompt": "x", "height": 64, "width": 64, "steps": 3}, {"prompt": "y", "image": "in.png", "steps": 3}]
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    written = ("--out", tmp_path / "fp8", "--kind", "fp8", "--calibrate", tmp_path / "requests.json", "--margin", 1)
    done = motbench("quantise", "--checkpoint", CHECKPOINT, *written)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[1] == "fixed scales of inputs reach 1 x what 1 requests reached; reference float32 on cpu"
    assert re.match(r"held-out request: \d+ of \d+ values clamped \(\S+\), most in layers\.\d\.\w+, ", told[2])
    assert re.search(r"error beside the dense model: 0\.\d+ with a scale for each row, 0\.\d+ with fixed", told[3])
    size = ("--prompt", "x", "--height", 64, "--width", 64, "--steps", 3)
    done = motbench("generate", "--checkpoint", tmp_path / "fp8", *size, "--out", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr


def test_int8_is_not_calibrated(tmp_path: Path) -> None:
    asked = ("--out", tmp_path / "out", "--kind", "int8", "--calibrate", tmp_path / "requests.json")
    refused(motbench("quantise", "--checkpoint", CHECKPOINT, *asked), "only fp8 layers have scales of their input")


def test_a_margin_without_a_calibration_is_refused(tmp_path: Path) -> None:
    asked = ("--out", tmp_path / "fp8", "--kind", "fp8", "--margin", "3")
    refused(motbench("quantise", "--checkpoint", CHECKPOINT, *asked), "nothing is calibrated")


def test_quantise_says_why_it_does_not_write(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    refused(motbench("quantise", "--checkpoint", CHECKPOINT, "--out", tmp_path, "--kind", "fp8"), "not an empty folder")
