"""Public incidents by the rule of ten pixels, and their known causes re-enacted."""

import json

import numpy as np
import pytest

from benchmarks.harness import history
from benchmarks.harness.golden_case import read_case
from tests.golden.conftest import FACTS, approve, change, plan

GUIDANCE = {"text_scale": 4.0, "image_scale": 1.0, "interval": [0.2, 1.0], "renorm_type": "global", "renorm_min": 0.0}


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> list[history.Replayed]:
    folder = tmp_path_factory.mktemp("history") / "golden_images" / "small"
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(FACTS))
    change(folder, steps=4, guidance=GUIDANCE)
    approve(folder)
    return list(history.replay(read_case(folder), plan()))


def test_there_are_eight_incidents() -> None:
    assert len(history.INCIDENTS) == 8


@pytest.mark.parametrize(
    ("cause", "tolerance", "says"),
    [
        (history.ACROSS, 10, "fails, fails"),
        (history.ACROSS, 15, "passes, fails"),
        ("one denoising step more", 5, "fails"),
        ("one denoising step more", 10, "cannot be judged"),
        ("a fused kernel", 10, "fails"),
        ("a fused kernel", 15, "passes"),
    ],
)
def test_the_rule_of_ten_pixels_says_what_it_said(cause: str, tolerance: int, says: str) -> None:
    (incident,) = (one for one in history.INCIDENTS if one.cause == cause)
    assert incident.says(tolerance) == says


def test_our_gate_sees_the_bugs_and_not_the_reordering(replayed: list[history.Replayed]) -> None:
    assert {one.name: one.ours for one in replayed} == {
        "one update more": True,
        history.ACROSS: True,
        history.REORDERING: False,
    }


def test_every_known_cause_is_one_that_is_replayed() -> None:
    named = {one.replayed for one in history.INCIDENTS if one.replayed}
    assert named == {cause.name for cause in history.REPLAYS}


@pytest.mark.parametrize(
    ("changed", "share"), [(0, 0.0), (20, pytest.approx(1 - 0.5**10, abs=0.02)), (40, 1.0)], ids=["none", "half", "all"]
)
def test_ten_probes_see_a_share_of_a_picture_as_often_as_chance_says(changed: int, share: float) -> None:
    before = np.zeros((40, 40, 3), np.uint8)
    after = before.copy()
    after[:changed] = 11
    assert history.failing(before, after, 10) == share
    assert history.failing(before, after, 11) == 0.0


def test_what_is_not_known_cannot_be_judged(replayed: list[history.Replayed]) -> None:
    text = history.markdown(replayed)
    assert text.count("| cannot be judged |\n") == 5
    assert (
        "| guidance branches attend to each other | 11, 70 | yes | fails, fails | fails, fails | passes, fails |"
        in text
    )


def test_the_tables_are_the_incidents_and_the_causes(replayed: list[history.Replayed]) -> None:
    incidents, causes = history.markdown(replayed).split("\n\n")
    assert (len(incidents.splitlines()), len(causes.splitlines())) == (10, 5)
