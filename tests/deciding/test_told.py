"""The verdict written out: short where people read, escaped where machines do."""

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.harness.records import Series
from reports import told
from reports.decide import Rounds
from reports.joint import Joint

Made = Callable[..., Rounds]
HOSTILE = "<script>|`x`\n::error::%"


@pytest.fixture
def red(comparison: Any, rounds: Made, qkv: Series, rms: Series) -> Joint:
    """One series slower, one broken with a hostile message, twenty that pass."""
    many = [Series("mlp.track_seconds", {"n": str(i)}) for i in range(20)]
    comparison.asked(qkv, rms, *many)
    comparison.measured(rounds(0.05))
    comparison.failed(rms, "head", reason=HOSTILE)
    for i, series in enumerate(many):
        comparison.measured(rounds(seed=100 + i, series=series))
    found: Joint = comparison.judge()
    return found


def test_terminal_names_what_could_have_been_seen_and_the_pair_of_equals(red: Joint) -> None:
    text = told.terminal(red)
    assert text.startswith("REGRESSED: 1 of 22 series slower, linear.track_seconds('qkv', 'fused') +5")
    assert "could see" in text
    assert "base against base" in text


def test_terminal_ends_with_what_to_type_and_the_exit_code(red: Joint) -> None:
    assert "\n  motbench compare aaaaaaaaaa bbbbbbbbbb --bench " in told.terminal(red)
    assert told.terminal(red).endswith("exit code 1")


def test_terminal_shows_no_control_characters(red: Joint) -> None:
    assert all(line.isprintable() for line in told.terminal(red).split("\n"))


def test_markdown_shows_what_is_not_green_and_counts_the_rest(red: Joint) -> None:
    text = told.markdown(red)
    assert text.count("| regressed |") == 1
    assert "| pass |" not in text
    assert "20 more series: 20 pass." in text


def test_markdown_is_short_however_much_regressed(comparison: Any, rounds: Made) -> None:
    many = [Series("mlp.track_seconds", {"n": str(i)}) for i in range(30)]
    comparison.asked(*many)
    for i, series in enumerate(many):
        comparison.measured(rounds(0.05, seed=i, series=series))
    text = told.markdown(comparison.judge())
    assert (text.count("| regressed |"), "20 more series: 20 regressed." in text) == (told.SHOWN, True)


@pytest.mark.parametrize("said", ["[here](http://x)", "![a](b)", "a\rb", "a\nb"])
def test_escaped_text_makes_no_link_picture_or_line(said: str) -> None:
    assert not set("[]\r\n") & set(told.escape(said))


def test_markdown_escapes_what_a_process_said(red: Joint) -> None:
    assert "&lt;script&gt;\\|'x'" in told.markdown(red)
    assert "<script>" not in told.markdown(red)


def test_junit_counts_failures_and_errors(red: Joint) -> None:
    suite = ElementTree.fromstring(told.junit(red))
    assert [suite.get(name) for name in ("tests", "failures", "errors")] == ["22", "1", "1"]


def test_junit_names_each_series(red: Joint) -> None:
    names = {case.get("name") for case in ElementTree.fromstring(told.junit(red))}
    assert "linear.track_seconds('qkv', 'fused')" in names


def test_annotations_are_one_line_each(red: Joint) -> None:
    lines = told.github(red).split("\n")
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]
    assert lines[1].endswith("%0A::error::%25")


def test_annotation_titles_cannot_end_early(red: Joint) -> None:
    title = told.github(red).split("\n")[0].removeprefix("::error title=").split("::")[0]
    assert title == "linear.track_seconds('qkv'%2C 'fused')"


def test_void_speed_shows_no_table(comparison: Any, rounds: Made, qkv: Series) -> None:
    comparison.asked(qkv)
    comparison.numerics(golden="regressed")
    comparison.measured(rounds())
    text = told.terminal(comparison.judge(with_image=True))
    assert "could see" not in text
    assert "motbench golden check --case fox" in text
