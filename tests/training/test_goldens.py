"""The definitions of the golden cases: what they differ in, and that what is committed is what they say."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.__main__ import main
from training.goldens import DEFINITIONS, Definition, Drawn, Edited, edit_of, write_cases
from training.world import held_out, parse

each = pytest.mark.parametrize("one", DEFINITIONS, ids=lambda one: one.name)


@each
def test_nothing_of_a_case_was_trained_on(one: Definition) -> None:
    if isinstance(one, Drawn):
        text = one.prompt
        assert parse(text) is not None
    else:
        text = edit_of(one).key if isinstance(one, Edited) else one.shown
    assert held_out(text)


@pytest.mark.parametrize("task", [Drawn, Edited])
def test_cases_of_a_task_differ_in_what_they_exercise(task: type) -> None:
    own: list[Any] = [one for one in DEFINITIONS if isinstance(one, task)]
    assert len(own) >= 8
    assert {one.guidance.renorm_type for one in own} == {"global", "channel", "text_channel"}
    assert {one.shift for one in own} == {1.0, 3.0}
    assert {one.steps <= 5 for one in own} == {one.steps >= 50 for one in own} == {True, False}
    assert (
        {one.guidance.text_scale > 1 for one in own}
        == {one.guidance.interval == (0, 1) for one in own}
        == {True, False}
    )
    assert sum(one.interpreter for one in own) == 1


def test_writing_again_keeps_limits_and_provenance(tmp_path: Path) -> None:
    names = write_cases(tmp_path)
    path = tmp_path / names[0] / "case.json"
    facts = json.loads(path.read_text()) | {"limits": "measured", "provenance": "approved"}
    path.write_text(json.dumps(facts | {"exercises": "something else"}))
    write_cases(tmp_path)
    facts["exercises"] = DEFINITIONS[0].exercises
    assert json.loads(path.read_text()) == facts


def test_the_gallery_is_a_picture_of_every_golden(tmp_path: Path) -> None:
    for name, other in (("draw", None), ("edit", (16, 16))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "case.json").write_text(json.dumps({"request": {"prompt": "a red star"}}))
        Image.new("RGB", (32, 32), "red").save(tmp_path / name / "expected.png")
        if other:
            Image.new("RGB", other, "blue").save(tmp_path / name / "input.png")
    assert main(["gallery", "--goldens", str(tmp_path), "--out", str(tmp_path / "all.png")]) == 0
    with Image.open(tmp_path / "all.png") as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24) or ()}
    assert {(255, 0, 0), (0, 0, 255)} <= colours


def test_a_folder_without_goldens_has_no_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gallery", "--goldens", str(tmp_path), "--out", str(tmp_path / "all.png")]) == 2
    assert "holds no golden" in capsys.readouterr().err
