"""Questions as golden cases: what a check says of right, wrong and missing answers, and who may approve one."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mot_impl
import reference_impl
from benchmarks.harness.environment import repository_root
from benchmarks.harness.golden_accept import Approver
from benchmarks.harness.golden_answers import (
    accept_answers,
    check_answers,
    propose_answer,
    read_all,
    read_answer_case,
)
from benchmarks.harness.golden_case import read_cases
from benchmarks.harness.goldens import Plan
from benchmarks.harness.records import Golden
from reference_impl.contract import Experts, MoTOps
from tests.golden.conftest import CHECKPOINT, change, plan

REFERENCE = reference_impl.OPS
ADA = Approver("Ada <ada@example.org>", "tests", "0" * 40)
FACTS = {
    "format": 1,
    "exercises": "tests",
    "interpreter": True,
    "request": {"task": "understand", "checkpoint": str(CHECKPOINT), "prompt": "What is this?", "max_tokens": 4},
    "provenance": None,
}


def with_linear(made: Callable[..., Any]) -> MoTOps:
    return dataclasses.replace(REFERENCE, name="theirs", linear=made)


SWAPPED = with_linear(lambda x, e, r: REFERENCE.linear(x, Experts(e.weight.flip(1), e.bias), r))


@pytest.fixture
def question(tmp_path: Path) -> Path:
    """The folder of a case without an approved answer."""
    folder = tmp_path / "golden_images" / "ask"
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(FACTS))
    Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 50).convert("RGB").save(folder / "input.png")
    change(folder, checkpoint=str(small_pictures(tmp_path)))
    return folder


def small_pictures(root: Path) -> Path:
    """The tiny checkpoint with resizes that its position tables have room for."""
    folder = root / "checkpoint"
    folder.mkdir()
    for path in CHECKPOINT.iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((CHECKPOINT / "config.json").read_text())
    sizes = {"max_image_size": 64, "min_image_size": 32}
    config |= {"image_transform_args": {**sizes, "image_stride": 16}}
    config |= {"vit_image_transform_args": {"max_image_size": 56, "min_image_size": 28, "image_stride": 14}}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def answered(question: Path) -> Path:
    """The same with its answer approved."""
    accept_answers([propose_answer(read_answer_case(question), plan())], ADA)
    return question


def check(folder: Path, judged: Plan) -> list[Golden]:
    return list(check_answers([read_answer_case(folder)], judged, folder.parents[1] / "out"))


def test_the_reference_gives_the_approved_answer(answered: Path) -> None:
    (record,) = check(answered, plan())
    assert (record.status, record.words, record.identical) == ("pass", "identical", True)
    assert record.texts["actual"] == record.texts["expected"] != ""
    assert (answered.parents[1] / "out" / record.pictures["input"]).exists()


def test_the_fused_kernels_give_the_same_answer(answered: Path) -> None:
    found = check(answered, plan("fused", mot_impl.OPS))
    assert [(one.against, one.status) for one in found] == [("reference", "pass"), ("golden", "pass")]


def test_another_answer_is_outside_and_both_are_shown(answered: Path) -> None:
    parity, drift = check(answered, plan("theirs:OPS", SWAPPED))
    assert (parity.status, drift.status) == ("regressed", "regressed")
    assert parity.metrics["wrong_tokens"] > 0 == parity.limits["wrong_tokens"]
    assert drift.reason == f"the answer is {drift.texts['actual']!r} but {drift.texts['expected']!r} is expected"
    assert drift.reproduce == "motbench golden check --case ask --impl theirs:OPS --device cpu --dtype float32"


def test_a_longer_answer_is_wrong_by_its_end(answered: Path) -> None:
    facts = json.loads((answered / "case.json").read_text())
    facts["provenance"]["ids"] = facts["provenance"]["ids"][:-2]
    (answered / "case.json").write_text(json.dumps(facts))
    (record,) = check(answered, plan())
    assert (record.status, record.metrics) == ("regressed", {"wrong_tokens": 2.0})


def test_a_kernel_that_raises_gives_no_answer(answered: Path) -> None:
    def linear(*_: object) -> torch.Tensor:
        raise RuntimeError("no such tile")

    parity, _ = check(answered, plan("theirs:OPS", with_linear(linear)))
    assert (parity.status, parity.reason) == ("regressed", "no answer was given: RuntimeError: no such tile")


def test_without_an_approved_answer_drift_is_not_measured(question: Path) -> None:
    (record,) = check(question, plan())
    assert (record.status, "golden accept ask --reason" in record.reason) == ("not-measured", True)


@pytest.mark.parametrize("lost", ["input.png", "case.json"])
def test_what_changed_since_makes_the_answer_stale(answered: Path, lost: str) -> None:
    if lost == "case.json":
        change(answered, prompt="What is that?")
    else:
        Image.new("RGB", (64, 48)).save(answered / "input.png")
    (record,) = check(answered, plan())
    assert (record.status, "since the answer was approved" in record.reason) == ("not-measured", True)


def test_a_lost_picture_blames_no_kernel(answered: Path) -> None:
    (answered / "input.png").unlink()
    parity, drift = check(answered, plan("theirs:OPS", SWAPPED))
    assert {parity.status, drift.status} == {"not-measured"}
    assert "input.png" in parity.reason


def test_the_approval_says_how_far_ahead_the_best_token_is(answered: Path) -> None:
    approval = read_answer_case(answered).approval
    assert approval is not None
    assert (approval.witness, approval.lead > 0) == ("reference in float64 on cpu", True)


def test_an_answer_that_the_witness_does_not_give_is_refused(question: Path) -> None:
    proposal = propose_answer(read_answer_case(question), plan("theirs:OPS", SWAPPED))
    with pytest.raises(
        ValueError, match=r"ask: the answer is .* but reference in float64's is .*; nothing was accepted"
    ):
        accept_answers([proposal], ADA)
    assert read_answer_case(question).approval is None


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        pytest.param({**FACTS, "limits": {}}, "unknown fields", id="limits"),
        pytest.param({**FACTS, "request": {**FACTS["request"], "steps": 3}}, "unknown fields", id="steps"),  # type: ignore[dict-item]
        pytest.param({k: v for k, v in FACTS.items() if k != "exercises"}, "lacks 'exercises'", id="missing"),
    ],
)
def test_a_wrong_case_is_one_line_that_names_the_file(question: Path, facts: Any, says: str) -> None:
    (question / "case.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=says) as refusal:
        read_answer_case(question)
    assert str(refusal.value).startswith(str(question / "case.json"))


def test_what_works_on_pictures_does_not_get_questions(question: Path, approved: Path) -> None:
    pictures, questions = read_all(question.parent)
    assert ([one.name for one in pictures], [one.name for one in questions]) == (["small"], ["ask"])
    assert [one.name for one in read_cases(question.parent)] == ["small"]
    with pytest.raises(ValueError, match="golden case ask asks a question and makes no picture"):
        read_cases(question.parent, ["ask"])


def test_the_checkpoint_beside_the_cases_is_none(question: Path) -> None:
    (question.parent / "checkpoint").mkdir()
    assert len(read_all(question.parent)[1]) == 1


def test_committed_answers_are_the_approved_ones() -> None:
    _, questions = read_all(repository_root() / "golden_images")
    assert [one.stale() for one in questions] == [""] * len(questions)
