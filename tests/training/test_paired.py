"""The same samples scored twice: pairs, their interval and p, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.__main__ import main
from training.card import _precisions
from training.paired import Pairs


def scores(path: Path, right: dict[str, list[int]], **options: Any) -> str:
    common = {"size": 128, "dtype": "bfloat16", "quantise": None, "ops": "reference_impl:OPS", "device": "cpu"}
    share = {"right": 1, "total": 2, "value": 0.5, "interval": [0.1, 0.9]}
    found = {
        "checkpoint": {"config.json": "ab"},
        "options": common | options,
        "scores": {task: {"all right": share} for task in right},
        "right": right,
    }
    path.write_text(json.dumps(found))
    return str(path)


def test_pairs_are_counted_sample_by_sample() -> None:
    assert Pairs.of([1, 1, 0, 0, 1], [1, 0, 1, 0, 0]) == Pairs(5, both=1, first=2, second=1)


def test_a_run_that_was_cut_short_is_compared_as_far_as_it_went() -> None:
    assert Pairs.of([1, 1, 0], [0]).n == 1


def test_interval_is_bonett_and_prices() -> None:
    # Of 100 pairs 12 are lost and 5 won: (6 - 13) / 102 +- 1.96 sqrt((6 + 13 - 49 / 102) / 102^2).
    low, high = Pairs(100, both=70, first=12, second=5).interval
    assert (low, high) == pytest.approx((-0.1513, 0.0141), abs=2e-4)


def test_p_is_mcnemars_exact_one() -> None:
    assert Pairs(100, both=90, first=6, second=0).p == pytest.approx(2 / 2**6)


def test_pairs_that_never_differ_say_nothing() -> None:
    assert Pairs(100, both=90, first=0, second=0).p == 1


def test_two_evaluations_become_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = scores(tmp_path / "a.json", {"edit": [1, 1, 1, 0]})
    other = scores(tmp_path / "b.json", {"edit": [1, 0, 1, 0]}, quantise="fp8")
    assert main(["compare", dense, other, "--out", str(tmp_path / "paired.json")]) == 0
    assert "| bfloat16 fp8, reference_impl on cpu, edit | 4 | 1 | 0 | -25.0 %" in capsys.readouterr().out
    kept = json.loads((tmp_path / "paired.json").read_text())["pairs"]["bfloat16 fp8, reference_impl on cpu"]["edit"]
    assert (kept["n"], kept["both"], kept["first"], kept["second"]) == (4, 2, 1, 0)


def test_pairs_become_a_part_of_the_card(tmp_path: Path) -> None:
    dense = scores(tmp_path / "a.json", {"edit": [1, 1, 1, 0]})
    other = scores(tmp_path / "b.json", {"edit": [1, 0, 1, 0]}, quantise="int8")
    paired = tmp_path / "paired.json"
    assert main(["compare", dense, other, "--out", str(paired)]) == 0
    card = "\n".join(_precisions(paired))
    assert "| all right, beside bfloat16, reference_impl on cpu | pairs |" in card
    assert "| bfloat16 int8, reference_impl on cpu, edit | 4 | 1 | 0 | -25.0 %" in card


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 64}, "the evaluations have size 128 and 64"),
        ({"checkpoint": {"config.json": "cd"}}, "of different checkpoints"),
        ({"right": None}, "does not say which samples are right"),
    ],
    ids=["other size", "other checkpoint", "no samples"],
)
def test_other_samples_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    first, second = (Path(scores(tmp_path / name, {"edit": [1, 1]})) for name in ("a.json", "b.json"))
    found = json.loads(second.read_text())
    found["options"] |= {name: value for name, value in change.items() if name == "size"}
    found |= {name: value for name, value in change.items() if name != "size"}
    second.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))
    assert main(["compare", str(first), str(second), "--out", str(tmp_path / "paired.json")]) == 2
    assert said in capsys.readouterr().err


def test_one_evaluation_is_no_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = scores(tmp_path / "a.json", {"edit": [1]})
    assert main(["compare", only, "--out", str(tmp_path / "paired.json")]) == 2
    assert "a comparison needs two" in capsys.readouterr().err
