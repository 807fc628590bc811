"""The definitions of the golden cases: what they differ in, and that what is committed is what they say."""

import json
from pathlib import Path
from typing import Any

import pytest

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
