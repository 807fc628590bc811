"""What a user can get wrong about a checkpoint, a request or a machine: exit code 2, one line, and nothing written."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests/data/bagel_oracle/checkpoint"


def truncated(folder: Path) -> None:
    path = folder / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickled(folder: Path) -> None:
    (folder / "ema.safetensors").write_bytes(pickle.dumps({"weight": [0.0]}))


def with_16_positions(folder: Path) -> None:
    path = folder / "llm_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 16}))


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def untouched(folder: Path) -> None:
    pass


Change = Callable[[Path], None]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
CASES = [
    pytest.param(shutil.rmtree, [], "is not a folder; give the folder that holds llm_config.json", id="no-folder"),
    pytest.param(emptied, [], "has neither llm_config.json nor", id="wrong-folder"),
    pytest.param(truncated, [], "is not a complete safetensors file", id="truncated-safetensors"),
    pytest.param(pickled, [], "(pickle is never loaded)", id="pickle-in-its-place"),
    pytest.param(untouched, ["--steps", "1"], "steps is 1 but must be at least 2", id="one-step"),
    pytest.param(untouched, ["--cfg-text-scale", "nan"], "text scale is nan but must be a finite number", id="nan"),
    pytest.param(with_16_positions, ["--prompt", "cat " * 20], "max_position_embeddings = 16", id="long-prompt"),
    pytest.param(untouched, ["--impl", "nope"], "'nope' is not reference, fused or package", id="implementation"),
    pytest.param(untouched, ["--device", "cuda"], "torch sees no GPU; use --device cpu", id="no-gpu", marks=NO_GPU),
]


@pytest.mark.parametrize(("change", "options", "message"), CASES)
def test_bad_input_is_one_line_and_leaves_nothing(
    change: Change, options: list[str], message: str, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    change(checkpoint)
    out = tmp_path / "out"
    out.mkdir()
    asked = ["--checkpoint", str(checkpoint), "--prompt", "a cat", "--height", "32", "--width", "32", "--steps", "2"]
    files = ["--out", str(out / "picture.png"), "--trace", str(out / "trace.safetensors")]
    command = [sys.executable, "-m", "motbench", "generate", *asked, *options, *files]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=out)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert (done.stdout, len(done.stderr.strip().splitlines())) == ("", 1)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--quantise", "int4"], "kind 'int4' is not one of fp8, int8", id="kind"),
        pytest.param(["--size", "1000"], "size 1000 is not one of 1026, 4098, 8208", id="size"),
        pytest.param(["--against", "eager"], "way 'eager' is not one of dense, gather, sorted", id="way"),
    ],
)
def test_a_step_that_cannot_be_measured_is_refused_before_a_gpu_is_asked_for(options: list[str], message: str) -> None:
    command = [sys.executable, "-P", "-m", "motbench", "step-time", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, message in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr
