"""Planted faults and harmless changes on a photograph small enough for tests."""

from pathlib import Path

import numpy as np
import pytest
import typer
from skimage import data

from benchmarks.harness import picture_faults, public_gates
from benchmarks.harness.picture_faults import CHANGES, LIMITS, Change, Judged, Subject, judge_all, markdown, score
from motbench.golden import metrics

SMALL = Subject("cat", data.chelsea()[60:220, 120:280], wrong=(8, 16), source=(112, 120), blurred=(24, 20), seed=5)


@pytest.fixture(scope="module")
def results() -> list[Judged]:
    return list(judge_all([SMALL]))


def test_there_are_nine_faults_and_two_harmless_changes() -> None:
    assert [change.harmless for change in CHANGES].count(False) == 9
    assert len(CHANGES) == 11


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_fault_is_outside_and_a_harmless_change_is_not(results: list[Judged], change: Change) -> None:
    (found,) = (result for result in results if result.change == change)
    assert found.right, found.values


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_keeps_the_picture_it_changes(change: Change) -> None:
    before = SMALL.picture.copy()
    changed = change.apply(SMALL)
    assert changed.shape == before.shape
    assert changed.dtype == np.uint8
    assert (changed != before).any()
    assert (SMALL.picture == before).all()


def test_local_faults_stay_where_they_are_put() -> None:
    wrong = next(change for change in CHANGES if "wrong" in change.name).apply(SMALL)
    rows, columns, _ = np.nonzero(wrong != SMALL.picture)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 39, 16, 47)


def test_ten_probes_miss_what_they_do_not_stand_on() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    white = black.copy()
    white[:6] = 255
    seen = [
        public_gates.gates((64, 64), seed)["ten probe pixels, tolerance 15"](black, white, {}) for seed in range(200)
    ]
    assert np.mean(seen) == pytest.approx(1 - (1 - 6 / 64) ** 10, abs=0.1)


def test_the_score_counts_faults_and_alarms_apart(results: list[Judged]) -> None:
    assert score(results, lambda _: True) == (9, 2)
    assert score(results, lambda result: result.change.harmless) == (0, 2)


def test_the_table_has_a_row_per_gate_metric_and_change(results: list[Judged]) -> None:
    lines = markdown(results).splitlines()
    assert len(lines) == 2 + len(public_gates.gates((1, 1), 0)) + len(LIMITS) + 1 + 3 + len(CHANGES)
    assert "| **all of these limits** | 9, 0 |" in lines
    assert "| dither of one level (harmless) | nothing |" in lines


@pytest.mark.parametrize(
    ("limit", "code", "says"), [(42.0, 0, "11 of 11 told right"), (46.0, 1, "10 of 11 told right")]
)
def test_the_command_fails_when_a_change_is_not_told_right(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    limit: float,
    code: int,
    says: str,
) -> None:
    monkeypatch.setattr(picture_faults, "subjects", lambda: [SMALL])
    monkeypatch.setitem(LIMITS, "psnr", limit)
    with pytest.raises(typer.Exit) as left:
        metrics(tmp_path / "table.md")
    said = capsys.readouterr().out
    assert left.value.exit_code == code
    assert says in said
    assert said.startswith((tmp_path / "table.md").read_text())
