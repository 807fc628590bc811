"""What lies on disk and is not as it was approved: one line that names it, and an exit code that is no pass."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.harness import goldens
from benchmarks.harness.golden_case import read_case
from motbench.exits import guarded
from motbench.golden.check import exit_code
from tests.golden.conftest import CHECKPOINT, change, plan


def another_picture(folder: Path) -> None:
    Image.new("RGB", (32, 32), "navy").save(folder / "expected.png")


def cut_short(folder: Path) -> None:
    whole = (folder / "expected.png").read_bytes()
    (folder / "expected.png").write_bytes(whole[: len(whole) // 2])


def another_size(folder: Path) -> None:
    with Image.open(folder / "expected.png") as picture:
        picture.resize((48, 32)).save(folder / "expected.png")


def cut_case(folder: Path) -> None:
    (folder / "case.json").write_text((folder / "case.json").read_text()[:-20])


def another_prompt(folder: Path) -> None:
    change(folder, prompt="a blue cat")


def lost_checkpoint(folder: Path) -> None:
    change(folder, checkpoint=str(folder / "nowhere"))


def checkpoint_without_weights(folder: Path) -> None:
    shutil.copytree(CHECKPOINT, folder.parents[1] / "checkpoint", ignore=shutil.ignore_patterns("*.safetensors"))
    change(folder, checkpoint=str(folder.parents[1] / "checkpoint"))


def judged(folder: Path) -> int:
    """Judge the case as `motbench golden check` does, in this process: the exit code."""

    def check() -> None:
        records = list(goldens.check([read_case(folder)], plan(), folder.parents[1] / "out"))
        print("\n".join(record.reason for record in records))
        raise SystemExit(int(exit_code(records)))

    return guarded(check)


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        pytest.param(another_picture, 2, ["expected.png is 32x32x3:", "was approved", "git"], id="another-picture"),
        pytest.param(cut_short, 2, ["expected.png", "cannot be read to its end"], id="png-cut-short"),
        pytest.param(another_size, 2, ["expected.png is 48 x 32 but the case asks for 32 x 32"], id="another-size"),
        pytest.param(cut_case, 2, ["case.json is no golden case"], id="case-cut-short"),
        pytest.param(another_prompt, 4, ["case.json's request is", "but was", "accept"], id="another-prompt"),
        pytest.param(lost_checkpoint, 2, ["nowhere", "checkpoint"], id="no-checkpoint"),
        pytest.param(checkpoint_without_weights, 2, ["checkpoint holds no"], id="checkpoint-without-weights"),
    ],
)
def test_what_is_not_as_it_was_is_one_line_and_no_pass(
    approved: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], code: int, says: list[str]
) -> None:
    damage(approved)
    assert judged(approved) == code
    said = capsys.readouterr()
    (line,) = (said.err + said.out).splitlines()
    assert [words for words in says if words not in line] == []


def test_the_case_is_judged_where_nothing_is_wrong(approved: Path) -> None:
    assert judged(approved) == 0
    assert json.loads((approved / "case.json").read_text())["provenance"]
