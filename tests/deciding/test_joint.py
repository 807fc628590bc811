"""A folder of records becomes one verdict of two axes."""

import re
import shlex
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from benchmarks.harness.records import EXIT_CODES, Series
from reports import accepted
from reports.decide import Rounds

Made = Callable[..., Rounds]


@pytest.mark.parametrize(
    ("slower", "status", "sentence"),
    [
        pytest.param(0.0, "pass", "The image holds; none of 1 series is slower.", id="neither"),
        pytest.param(0.05, "regressed", "The image holds; 1 of 1 series slower, linear", id="same-image-slower"),
        pytest.param(-0.05, "improved", "The image holds; 1 of 1 series faster, linear", id="same-image-faster"),
    ],
)
def test_two_axes_in_one_sentence(
    comparison: Any, rounds: Made, qkv: Series, slower: float, status: str, sentence: str
) -> None:
    comparison.asked(qkv)
    comparison.numerics()
    comparison.measured(rounds(slower))
    found = comparison.judge(with_image=True)
    assert (found.status, found.sentence[: len(sentence)]) == (status, sentence)


@pytest.mark.parametrize(
    ("parity", "golden", "status", "said"),
    [
        pytest.param(False, "pass", "regressed", "The image moved: linear/qkv", id="parity"),
        pytest.param(True, "regressed", "regressed", "The image moved: fox", id="golden"),
        pytest.param(True, "not-measured", "not-measured", "The image was not measured: fox", id="golden-missing"),
    ],
)
def test_speed_is_void_where_numerics_failed(
    comparison: Any, rounds: Made, qkv: Series, parity: bool, golden: str, status: str, said: str
) -> None:
    comparison.asked(qkv)
    comparison.numerics(parity, golden)
    comparison.measured(rounds(-0.05))
    found = comparison.judge(with_image=True)
    assert (found.status, found.decisions, found.sentence[-14:]) == (status, [], "speed is void.")
    assert found.sentence.startswith(said)


def test_without_numerics_the_image_is_not_measured(comparison: Any, rounds: Made, qkv: Series) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds())
    assert comparison.judge(with_image=True).status == "not-measured"


def test_a_series_without_records_is_not_measured(comparison: Any, rounds: Made, qkv: Series, rms: Series) -> None:
    comparison.asked(qkv, rms)
    comparison.measured(rounds())
    found = comparison.judge()
    assert (found.status, found.decisions[0].series) == ("not-measured", rms)


def test_what_broke_says_so(comparison: Any, qkv: Series) -> None:
    comparison.asked(qkv)
    comparison.failed(qkv, "head")
    assert comparison.judge().decisions[0].reason == "head at bbbbbbbb broke: RuntimeError: broken"


def test_a_series_new_in_head_is_listed_and_not_counted(
    comparison: Any, rounds: Made, qkv: Series, rms: Series
) -> None:
    comparison.asked(qkv, rms)
    comparison.measured(rounds())
    comparison.failed(rms, "base", "absent")
    found = comparison.judge()
    assert (found.status, [one.reason for one in found.skipped]) == (
        "pass",
        ["new in head: base has nothing to compare with"],
    )


def test_a_series_that_head_lost_is_not_measured(comparison: Any, qkv: Series) -> None:
    comparison.asked(qkv)
    comparison.failed(qkv, "head", "absent", "commit has no package")
    assert comparison.judge().status == "not-measured"


def test_a_new_series_that_breaks_in_head_is_not_measured(comparison: Any, qkv: Series) -> None:
    comparison.asked(qkv)
    comparison.failed(qkv, "base", "absent")
    comparison.failed(qkv, "head")
    assert comparison.judge().status == "not-measured"


@pytest.mark.parametrize(
    "other", [{"fingerprint": "another"}, {"protocol": 2}, {"commit": "c" * 40}], ids=["machine", "protocol", "commit"]
)
def test_records_of_something_else_are_named_and_not_compared(
    comparison: Any, rounds: Made, qkv: Series, other: dict[str, object]
) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds())
    for side in ("base", "head", "again"):
        comparison.line(qkv, side, 99, [50.0], **other)
    found = comparison.judge()
    assert (found.status, found.decisions[0].rounds) == ("pass", 12)
    assert found.damage == ["3 records are of another machine, commit or protocol and do not count"]


def test_a_line_cut_short_costs_its_round_only(comparison: Any, rounds: Made, qkv: Series) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds())
    path = comparison.folder / "timing.jsonl"
    path.write_text(path.read_text()[:-20])
    found = comparison.judge()
    assert (found.decisions[0].rounds, found.damage) == (11, ["timing.jsonl has 1 unreadable line"])


def test_the_worst_stands_first(comparison: Any, rounds: Made, qkv: Series, rms: Series) -> None:
    comparison.asked(qkv, rms)
    comparison.measured(rounds(0.0))
    comparison.measured(rounds(0.05, series=rms))
    assert [one.status for one in comparison.judge().decisions] == ["regressed", "pass"]


def test_an_accepted_slowdown_does_not_close_the_gate(comparison: Any, rounds: Made, qkv: Series) -> None:
    from reports import joint

    comparison.asked(qkv)
    comparison.measured(rounds(0.05))
    entry = accepted.Accepted("linear*", "slower", date(2026, 12, 31), "known", 0.08)
    found = joint.judge(comparison.folder, [entry], date(2026, 11, 24), with_image=False)
    assert (EXIT_CODES[found.status], found.sentence) == (0, "1 accepted.")


@pytest.mark.parametrize(("n", "typed"), [(1, 4), (12, 24), (40, 60)])
def test_what_could_not_be_decided_is_measured_twice_as_long(
    comparison: Any, rounds: Made, qkv: Series, n: int, typed: int
) -> None:
    comparison.asked(qkv)
    comparison.measured(rounds(noise=0.1, n=n))
    found = comparison.judge()
    assert found.reproduce(found.decisions[0]).endswith(f" --rounds {typed}")


def test_the_line_that_reproduces_selects_this_series_alone(
    comparison: Any, rounds: Made, qkv: Series, rms: Series
) -> None:
    comparison.asked(qkv, rms)
    comparison.measured(rounds(0.05))
    found = comparison.judge()
    (typed,) = [found.reproduce(one) for one in found.decisions if one.status == "regressed"]
    words = shlex.split(typed)
    pattern = words[words.index("--bench") + 1]
    assert words[:4] == ["motbench", "compare", "a" * 10, "b" * 10]
    assert [bool(re.search(pattern, series.label)) for series in (qkv, rms)] == [True, False]
