"""Slowdowns of known length in real processes: what was added is what is measured."""

import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import environment, injected
from benchmarks.harness.records import Series, Timing, read_lines
from motbench import injected as walk
from motbench.cli import app
from motbench.compare import Request
from motbench.exits import guarded
from reports.decide import Rounds

pytestmark = pytest.mark.skipif(environment.here().profile == "gpu", reason="a CPU's spin; a GPU's sleep is marked gpu")
ROOT = environment.repository_root()
HALF = 0.5


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Timing]]:
    """Two rounds of a norm; heads are slower by half in the first of them, and nothing is in the second."""
    folder = tmp_path_factory.mktemp("injected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "SLOWED_ROUNDS", 1)
        patch.setattr(injected, "FRACTIONS", (HALF,))
        patch.setitem(injected.SERIES, "cpu", injected.SERIES["cpu"][:1])
        folders = walk.measure(ROOT, folder, Request(rounds=2))
    return {one.name: read_lines(one / "timing.jsonl", Timing)[0] for one in folders}


def test_every_process_is_measured_as_it_is(measured: dict[str, list[Timing]]) -> None:
    assert Counter((line.round, line.side) for line in measured["nothing"]) == Counter(
        (number, side) for number in (0, 1) for side in ("base", "head", "again")
    )


def test_slowed_rounds_are_as_many_as_asked(measured: dict[str, list[Timing]]) -> None:
    assert [line.round for line in measured["slower-by-50-percent"]] == [0, 0, 0]


def test_a_process_is_new_in_every_turn(measured: dict[str, list[Timing]]) -> None:
    assert len({line.pid for line in measured["nothing"]}) == 6


def test_heads_are_slower_by_what_was_added(measured: dict[str, list[Timing]]) -> None:
    by_side = {line.side: min(line.samples) for line in measured["slower-by-50-percent"]}
    # Generous on both sides: this is a shared CPU, and only "half of its time, in the head alone" is asked.
    assert 1.25 < by_side["head"] / statistics.fmean((by_side["base"], by_side["again"])) < 1.9


def test_a_process_that_breaks_ends_the_self_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(injected.SERIES, "cpu", [Series("mlp.track_seconds", {"shape": "small"})])
    with pytest.raises(
        ValueError, match=r"a process broke: ValueError: mlp.track_seconds.* is neither linear nor norm"
    ):
        walk.measure(ROOT, tmp_path, Request(rounds=1))


def test_the_table_says_what_was_added_and_what_was_made_of_it(
    comparison: Any, rounds: Callable[..., Rounds], qkv: Series
) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds(0.05))
    row = walk.table([("slower-by-5-percent", comparison.judge())]).splitlines()[2]
    assert row.startswith("| `linear.track_seconds('qkv', 'fused')` | slower by 5 percent | +5")
    assert "| regressed |" in row


def test_inject_is_for_the_self_test(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: app(["gate", "HEAD", "HEAD", "--inject"])) == 2
    assert "--inject measures for --selftest" in capsys.readouterr().err
