"""A picture's change, by op: it adds up, and what no op accounts for is named."""

import json

import pytest

from benchmarks.harness.records import Clock, Series, Stages, append_line
from reports import told
from reports.explained import UNEXPLAINED, Explained

PICTURE = Series("generate.track_seconds", {"task": "t2i", "impl": "fused"})
BASE = {"linear": 0.060, "attention": 0.020}
HEAD = {"linear": 0.069, "attention": 0.020}


def at(mhz: int) -> Clock:
    return Clock(float(mhz), [mhz], [50], [400.0], [""], {})


def recorded(
    comparison, rounds: int = 6, head: dict[str, float] = HEAD, rest: float = 0.001, first: int = 0, **line: object
) -> None:
    """Pictures of 100 ms, of whose 10 ms more HEAD's linear accounts for 9."""
    comparison.asked(PICTURE)
    for number in range(first, first + rounds):
        for place, side in enumerate(("base", "head", "again")):
            ops = {name: seconds + 1e-5 * number for name, seconds in (head if side == "head" else BASE).items()}
            seconds = sum(ops.values()) + 0.020 + (rest if side == "head" else 0.0)
            pid = 10 * number + place
            comparison.line(PICTURE, side, number, [seconds], pid=pid, **line)
            commit = ("b" if side == "head" else "a") * 40
            record = Stages(PICTURE.benchmark, PICTURE.params, commit, "", 1, number, pid, "", ops)
            append_line(comparison.folder / "ops.jsonl", record)


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


def test_a_round_at_a_lower_clock_is_in_neither_verdict_nor_table(comparison) -> None:
    recorded(comparison, clock=at(1980))
    recorded(comparison, rounds=1, first=6, rest=5.0, clock=at(1500))
    judged = comparison.judge()
    assert (judged.decisions[0].rounds, judged.explained[0].whole.change) == (6, pytest.approx(0.01))


@pytest.mark.parametrize("seconds", [float("nan"), 0.0, float("inf")], ids=str)
def test_a_process_without_a_possible_time_leaves_its_round_out_of_the_table(
    comparison, found: Explained, seconds: float
) -> None:
    recorded(comparison, rounds=1, first=6, rest=1.0)
    path = comparison.folder / "timing.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    comparison.line(PICTURE, "again", 6, [seconds], pid=62)
    assert comparison.judge().explained == [found]


def test_a_broken_line_of_ops_is_counted(comparison) -> None:
    recorded(comparison)
    path = comparison.folder / "ops.jsonl"
    path.write_text(path.read_text()[:-20])
    assert comparison.judge().damage[0] == "ops.jsonl has 1 unreadable line"


@pytest.mark.parametrize("last", ["", "{}", '{"linear": null}'], ids=["no-line", "no-ops", "no-number"])
def test_a_round_in_which_a_process_has_no_ops_is_left_out_and_said(comparison, found: Explained, last: str) -> None:
    recorded(comparison, rounds=1, first=6)
    path = comparison.folder / "ops.jsonl"
    *lines, line = path.read_text().splitlines()
    record = json.loads(line) | {"seconds": json.loads(last or "{}")}
    path.write_text("\n".join([*lines, *([json.dumps(record)] if last else []), ""]))
    judged = comparison.judge()
    assert judged.explained == [found]
    assert judged.damage == [f"{PICTURE.label}: 1 of 7 rounds miss the ops of a process and are not in the table by op"]


def test_where_no_ops_were_ever_recorded_nothing_is_said(comparison, rounds, qkv) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds())
    assert comparison.judge().damage == []
