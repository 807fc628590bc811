"""`motbench ops` and `--tiles` as a user types them, in a process of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BROKEN = """
import dataclasses
import reference_impl
OPS = dataclasses.replace(
    reference_impl.OPS, name="broken", rotary=lambda x, table: {result}
)
"""


def motbench(*args: object, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{path}:{ROOT}", "OMP_NUM_THREADS": "1"}
    if path != ROOT:
        environment["TMPDIR"] = str(path)  # tracebacks are kept there
    command = [sys.executable, "-m", "motbench", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=ROOT)


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """A user's folder with one tile, for the qkv layer of small cases in the interpreter."""
    tile = {"block_m": 32, "block_n": 64, "block_k": 32, "warps": 4, "stages": 2}
    entry = {"op": "linear", "dtype": "float32", "m": 1, "n": 512, "k": 256, "tile": tile}
    content = {"schema": 1, "device": "cpu", "made": {}, "entries": [entry]}
    folder = tmp_path / "tiles"
    folder.mkdir()
    (folder / "cpu.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("factor", ["1.01", "float('nan')"], ids=["off-by-a-hundredth", "nan"])
def test_a_third_partys_broken_op_is_named(tmp_path: Path, factor: str) -> None:
    (tmp_path / "theirs.py").write_text(BROKEN.format(result=f"reference_impl.OPS.rotary(x, table) * {factor}"))
    asked = ("ops", "--impl", "theirs:OPS", "--case", "outliers", "--json", tmp_path / "ops.json")
    done = motbench(*asked, path=tmp_path)
    assert done.returncode == 1, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith("OUTSIDE")] == ["rotary"]
    assert "motbench ops --impl theirs:OPS --device cpu --dtype float32 --case outliers --op rotary" in done.stdout
    assert {one["op"] for one in json.loads((tmp_path / "ops.json").read_text()) if not one["ok"]} == {"rotary"}


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("x[:1]", "ValueError: cannot compare (1, 4, 64)"),
        ("x.nope", "AttributeError: "),
        ("None", "TypeError: broken rotary returned NoneType but must return tensors"),
    ],
    ids=["wrong-shape", "raises", "no-result"],
)
def test_an_op_that_raises_is_outside_and_the_others_go_on(tmp_path: Path, result: str, says: str) -> None:
    (tmp_path / "theirs.py").write_text(BROKEN.format(result=result))
    asked = ("ops", "--impl", "theirs:OPS", "--case", "outliers", "--json", tmp_path / "ops.json")
    done = motbench(*asked, path=tmp_path)
    assert done.returncode == 1, done.stderr
    (record,) = [one for one in json.loads((tmp_path / "ops.json").read_text()) if not one["ok"]]
    assert (record["op"], record["reason"].startswith(says)) == ("rotary", True), record
    assert "12 of 13 within their limits" in done.stdout
    (kept,) = re.findall(r"rotary: the first traceback is in (\S+)", done.stdout)
    assert Path(kept).read_text().startswith("Traceback")


def test_an_op_with_another_signature_is_outside(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(BROKEN.format(result="x").replace("lambda x, table", "lambda x"))
    done = motbench("ops", "--impl", "theirs:OPS", "--case", "outliers", "--op", "rotary", path=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "look at rotary on outliers, TypeError: <lambda>() takes 1 positional argument" in done.stdout


def test_an_op_without_the_dtype_is_a_refusal() -> None:
    done = motbench("ops", "--impl", "fused", "--dtype", "bfloat16", "--case", "outliers")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "linear/qkv on outliers: " in done.stderr


def test_the_worst_case_is_the_one_to_look_at(tmp_path: Path) -> None:
    worse = "reference_impl.OPS.rotary(x, table) * (1.01 + (len(x) == 1))"
    (tmp_path / "theirs.py").write_text(BROKEN.format(result=worse))
    cases = ("--case", "outliers", "--case", "one_text_row")
    done = motbench("ops", "--impl", "theirs:OPS", *cases, path=tmp_path)
    line = "motbench ops --impl theirs:OPS --device cpu --dtype float32 --case one_text_row --op rotary"
    assert line in done.stdout, done.stdout
    assert "2 cases" in done.stdout
    assert "2 OUTSIDE" in done.stdout


def test_an_op_can_be_asked_for_alone() -> None:
    done = motbench("ops", "--impl", "reference", "--case", "outliers", "--op", "rotary", "--op", "rms_norm")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["rotary", "rms_norm", "2"]


def test_an_unknown_op_is_refused() -> None:
    done = motbench("ops", "--impl", "reference", "--op", "nope")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "op nope is unknown; use one of linear/qkv, " in done.stderr


def test_bagels_own_sizes_are_refused_on_a_cpu() -> None:
    done = motbench("ops", "--impl", "reference", "--case", "bagel_1026_bias_none")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "case bagel_1026_bias_none: BAGEL's own sizes need a GPU" in done.stderr


def test_an_implementation_that_agrees_passes() -> None:
    done = motbench("ops", "--impl", "reference_impl:OPS", "--case", "outliers", "--case", "no_rows")
    assert done.returncode == 0, done.stderr
    assert "26 of 26 within their limits: reference float32 on cpu" in done.stdout


def test_an_unknown_case_is_refused() -> None:
    done = motbench("ops", "--impl", "reference", "--case", "nope")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "case nope is unknown; use one of text_at_ends" in done.stderr
    assert "; or on a GPU one of bagel_" in done.stderr


def test_a_users_tile_is_used_and_recorded(tiles: Path, tmp_path: Path) -> None:
    asked = ("--impl", "fused", "--tiles", tiles, "--case", "one_text_row", "--json", tmp_path / "ops.json")
    done = motbench("ops", *asked)
    assert done.returncode == 0, done.stderr
    origin = {one["op"]: one["tile"] for one in json.loads((tmp_path / "ops.json").read_text())}
    assert origin["linear/qkv"] == "32x64x32 w4 s2 (user: cpu.json, M=1)"
    assert "interpreter" in origin["linear/down"]


COMMANDS = {
    "generate": ("--checkpoint", "c", "--prompt", "", "--out", "o.png", "--height", 32, "--width", 32),
    "understand": ("--checkpoint", "c", "--prompt", ""),
    "parity": ("f",),
    "golden check": (),
    "ops": (),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_the_tiles(command: str, tiles: Path) -> None:
    (tiles / "cpu.json").write_text("{}")
    done = motbench(*command.split(), *COMMANDS[command], "--impl", "fused", "--tiles", tiles)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "cpu.json is not a tile file" in done.stderr
