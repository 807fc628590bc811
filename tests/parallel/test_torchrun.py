"""`torchrun -m motbench ...` as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import motbench.ranks

DATA = Path(__file__).parents[1] / "data" / "bagel_oracle"
ROOT = Path(__file__).parents[2]


def torchrun(ranks: int, name: str, *args: object) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*launcher, "-m", "motbench", name, "--checkpoint", str(DATA / "checkpoint"), *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("mode", ["tensor", "sequence"])
def test_ranks_make_the_stored_picture_and_one_writes_it(mode: str, tmp_path: Path) -> None:
    case = DATA / "cases" / "t2i_base"
    stored = load_file(case / "tensors.safetensors")
    save_file({"init_noise": stored["init_noise"]}, tmp_path / "noise.safetensors")
    prompt = json.loads((case / "case.json").read_text())["prompt"]
    size = ("--height", 64, "--width", 64, "--steps", 8)
    out = tmp_path / "out" / "cat.png"
    files = ("--init-noise", tmp_path / "noise.safetensors", "--trace", tmp_path / "out" / "trace.safetensors")
    done = torchrun(2, "generate", "--prompt", prompt, *size, *files, "--out", out, "--parallel", mode)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1
    assert f"2 ranks of cpu, {mode} parallel" in done.stdout
    assert sorted(path.name for path in out.parent.iterdir()) == ["cat.png", "trace.safetensors"]
    latents = load_file(tmp_path / "out" / "trace.safetensors")["final_latents"]
    assert (latents - stored["final_latents"]).abs().max() <= 3e-5
    ours, theirs = (np.array(Image.open(path)).astype(int) for path in (out, case / "output.png"))
    assert np.abs(ours - theirs).max() <= 1


def test_ranks_write_the_stored_answer_and_one_prints_it() -> None:
    facts = json.loads((DATA / "cases" / "und_text" / "case.json").read_text())
    done = torchrun(
        2, "understand", "--prompt", facts["prompt"], "--max-tokens", facts["params"]["max_length"], "--ids"
    )
    assert [int(word) for word in done.stdout.split()] == facts["generated_ids"], done.stderr


def test_ranks_that_do_not_divide_the_model_are_refused(tmp_path: Path) -> None:
    done = torchrun(3, "generate", "--prompt", "x", "--height", 64, "--width", 64, "--out", tmp_path / "o.png")
    assert done.returncode != 0
    assert "motbench: 4 attention heads and intermediate_size 160 do not divide among 3 ranks" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_torchrun_a_command_is_alone() -> None:
    with motbench.ranks.joined("sequence", "cpu") as (parallel, device):  # type: ignore[arg-type]
        assert (parallel.rank, parallel.size, device) == (0, 1, "cpu")
