"""A verdict in words, and where a picture that is outside begins to differ."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

import reference_impl
from benchmarks.harness import goldens
from benchmarks.harness.golden_case import read_case
from benchmarks.harness.golden_locate import TRACED
from benchmarks.harness.golden_words import words
from benchmarks.harness.records import Golden, KnownGood, Rate
from reference_impl.contract import MoTOps
from tests.golden.conftest import change, plan
from tests.golden.test_goldens import UNBIASED

NOTED = KnownGood("base", 320, 8, Rate(0, 320, 0.0, 0.01), Rate(0, 8, 0.0, 0.3), [], "base limits")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("pass", "", True, None, None), "identical", id="identical"),
        pytest.param(("pass", "", True, 1.0, NOTED), "identical", id="identical-with-known-good-runs"),
        pytest.param(
            ("pass", "", False, 0.034, NOTED),
            "compatible with reordering (p = 0.034, 320 known-good runs; base limits)",
            id="compatible",
        ),
        pytest.param(
            ("pass", "", False, None, None),
            "compatible with reordering (p not measured: its limits were set by hand)",
            id="by-hand",
        ),
        pytest.param(("regressed", "absmax 9", False, 0.01, NOTED), "outside: absmax 9", id="outside"),
        pytest.param(("not-measured", "no golden", True, 1.0, NOTED), "not measured: no golden", id="not-measured"),
    ],
)
def test_a_verdict_is_one_of_four(arguments: tuple[object, ...], said: str) -> None:
    assert words(*arguments) == said  # type: ignore[arg-type]


def check(root: Path, ops: MoTOps) -> list[Golden]:
    cases = [read_case(path) for path in sorted(root.iterdir())]
    return list(goldens.check(cases, plan("my.kernels:OPS", ops), root.parent / "out"))


def test_latents_that_differ_under_an_identical_picture_are_not_identical(approved: Path) -> None:
    def linear(*args: object) -> torch.Tensor:
        return reference_impl.OPS.linear(*args) * (1 + 2.0**-22)  # type: ignore[arg-type]

    change(approved, limits={kind: {"float32": {"absmax": 9.0}} for kind in ("parity", "drift")})
    parity, drift = check(approved.parent, dataclasses.replace(reference_impl.OPS, name="near", linear=linear))
    assert (parity.identical, parity.words[:10], drift.words) == (True, "compatible", "identical")


def test_a_check_traces_a_few_cases_and_names_the_others(approved: Path) -> None:
    for number in range(TRACED):
        shutil.copytree(approved, approved.parent / f"other{number}")
    said = [record.words for record in check(approved.parent, UNBIASED) if record.against == "reference"]
    assert [one.startswith("outside: first at the text pass") for one in said] == [True] * TRACED + [False]
    assert said[-1].startswith(f"outside: not traced, as {TRACED} other cases were; absmax ")


def test_a_golden_that_moved_blames_no_kernel(approved: Path) -> None:
    change(approved, limits={"parity": {"float32": {"absmax": 0.0}}, "drift": {"float32": {"absmax": 0.0}}})
    moved = read_case(approved)
    moved = dataclasses.replace(moved, request=dataclasses.replace(moved.request, seed=2))
    (record,) = goldens.check([moved], plan(), approved / "out")
    assert record.words.startswith("outside: it is the reference itself, so the model or the environment moved")


def test_what_the_trace_raises_does_not_end_the_check(approved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr("benchmarks.harness.golden_locate.trace", broken)
    parity, _ = check(approved.parent, UNBIASED)
    assert parity.words.endswith("the trace fails: RuntimeError: no memory")
