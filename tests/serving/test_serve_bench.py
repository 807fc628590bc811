"""`motbench serve-bench` from the command line: exit codes, the record, and names that stay in their folder."""

import json
from pathlib import Path

import pytest
from PIL import Image

from motbench.cli import app
from motbench.exits import guarded


def bench(tmp_path: Path, url: str, prompts: str, *options: str) -> int:
    """The exit code of the command, run in this process."""
    (tmp_path / "prompts.txt").write_text(prompts)
    files = ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out.json")]
    return guarded(lambda: app(["serve-bench", "--base-url", url, *files, *options]))


def test_a_run_against_our_server_brings_every_picture(tmp_path, server):
    assert bench(tmp_path, server, "a red circle\n", "--num-prompts", "3", "--save-dir", str(tmp_path / "kept")) == 0
    assert [path.name for path in sorted((tmp_path / "kept").iterdir())] == ["00000.png", "00001.png", "00002.png"]


def test_an_edit_run_sends_the_pictures(tmp_path, server):
    Image.new("RGB", (64, 64), (9, 99, 9)).save(tmp_path / "a.png")
    line = json.dumps({"prompt": "make it red", "image": "a.png"})
    options = ["--num-prompts", "1", "--task", "i2i", "--steps", "2", "--warmup-steps", "0"]
    assert bench(tmp_path, server, line, *options) == 0


def test_the_record_tells_how_both_sides_were_made(tmp_path, server):
    bench(tmp_path, server, "a\n", "--num-prompts", "1")
    record = json.loads((tmp_path / "out.json").read_text())
    assert (len(record["client"]["commit"]), len(record["server"]["provenance"]["commit"])) == (40, 40)


def test_a_prompt_that_looks_like_a_path_names_no_file(tmp_path, server):
    bench(tmp_path, server, "../../outside\n", "--num-prompts", "1", "--save-dir", str(tmp_path / "kept"))
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["00000.png"]


@pytest.mark.parametrize(("prompts", "code"), [("good\nfailed\n", 1), ("failed\n", 4)], ids=["some", "all"])
def test_failures_show_in_the_exit_code(tmp_path, bad_server, prompts, code):
    assert bench(tmp_path, bad_server, prompts, "--num-prompts", "2", "--warmup-steps", "0") == code


@pytest.mark.parametrize(
    ("prompts", "options", "match"),
    [
        ("", ["--num-prompts", "1"], "holds no prompt"),
        ("a\n", ["--num-prompts", "0"], "must be at least 1"),
        ("a\n", ["--num-prompts", "1", "--task", "i2i"], "line 1 has no image"),
        ("a\n", ["--num-prompts", "1", "--warmup-steps", "1"], "needs at least 2"),
        ('{"prompt": 3}\n', ["--num-prompts", "1"], "must be texts"),
    ],
    ids=["no_prompt", "no_requests", "no_image", "cold", "no_text"],
)
def test_refused(tmp_path, bad_server, capsys, prompts, options, match):
    assert bench(tmp_path, bad_server, prompts, *options) == 2
    assert match in capsys.readouterr().err
