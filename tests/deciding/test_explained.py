"""A picture's change, by op: it adds up, and what no op accounts for is named."""

import pytest

from benchmarks.harness.records import Series, Stages, append_line
from reports import told
from reports.explained import UNEXPLAINED, Explained

PICTURE = Series("generate.track_seconds", {"task": "t2i", "impl": "fused"})
BASE = {"linear": 0.060, "attention": 0.020}
HEAD = {"linear": 0.069, "attention": 0.020}


def recorded(comparison, rounds: int = 6, head: dict[str, float] = HEAD, rest: float = 0.001) -> None:
    """Pictures of 100 ms, of whose 10 ms more HEAD's linear accounts for 9."""
    comparison.asked(PICTURE)
    for number in range(rounds):
        for place, side in enumerate(("base", "head", "again")):
            ops = {name: seconds + 1e-5 * number for name, seconds in (head if side == "head" else BASE).items()}
            seconds = sum(ops.values()) + 0.020 + (rest if side == "head" else 0.0)
            pid = 10 * number + place
            comparison.line(PICTURE, side, number, [seconds], pid=pid)
            commit = ("b" if side == "head" else "a") * 40
            line = Stages(PICTURE.benchmark, PICTURE.params, commit, "", 1, number, pid, "", ops)
            append_line(comparison.folder / "ops.jsonl", line)


@pytest.fixture
def found(comparison) -> Explained:
    recorded(comparison)
    (one,) = comparison.judge().explained
    return one


def test_the_changes_of_the_parts_add_up_to_the_whole(found: Explained) -> None:
    assert sum(part.change for part in found.parts) == pytest.approx(found.whole.change, abs=1e-12)


def test_the_op_that_changed_most_comes_first(found: Explained) -> None:
    assert (found.parts[0].name, found.parts[0].change) == ("linear", pytest.approx(0.009))


def test_what_no_op_accounts_for_is_last(found: Explained) -> None:
    assert (found.parts[-1].name, found.parts[-1].change) == (UNEXPLAINED, pytest.approx(0.001))


def test_an_op_that_head_has_not_is_a_part_too(comparison) -> None:
    recorded(comparison, head={"linear": 0.06})
    (one,) = comparison.judge().explained
    assert {part.name: part.change for part in one.parts}["attention"] == pytest.approx(-0.02, abs=1e-4)


def test_one_round_explains_nothing(comparison) -> None:
    recorded(comparison, rounds=1)
    assert comparison.judge().explained == []


def test_the_table_is_shown(comparison) -> None:
    recorded(comparison)
    said = told.terminal(comparison.judge())
    assert "generate.track_seconds('t2i', 'fused'), milliseconds" in said
    assert any(line.split()[:1] == ["linear"] and "+9.0%" in line for line in said.splitlines())
