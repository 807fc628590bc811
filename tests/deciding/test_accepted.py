"""The file of accepted slowdowns and quarantined series."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from reports import accepted, decide
from reports.decide import Decision, Rounds

Made = Callable[..., Rounds]

ENTRY = """
[[accepted]]
series = "linear.track_seconds('qkv', *"
kind = "slower"
up_to = 0.08
until = 2026-12-31
reason = "exact rounding"
"""
FLAKY = """
[[accepted]]
series = "*"
kind = "flaky"
until = 2026-12-31
reason = "two speeds, see issue 9"
"""


def read(folder: Path, text: str) -> list[accepted.Accepted]:
    (folder / accepted.FILE).write_text(text)
    return accepted.read(folder / accepted.FILE)


def applied(entries: list[accepted.Accepted], rounds: Rounds, today: date = date(2026, 12, 31)) -> Decision:
    (found,) = accepted.apply(decide.decide([rounds], [0.005]), entries, today)
    return found


def test_no_file_accepts_nothing(tmp_path: Path) -> None:
    assert accepted.read(tmp_path / accepted.FILE) == []


def test_a_covered_slowdown_is_accepted_with_its_reason(tmp_path: Path, rounds: Made) -> None:
    assert applied(read(tmp_path, ENTRY), rounds(0.05)).accepted == "accepted until 2026-12-31: exact rounding"


def test_an_accepted_slowdown_stays_visible_as_regressed(tmp_path: Path, rounds: Made) -> None:
    assert applied(read(tmp_path, ENTRY), rounds(0.05)).status == "regressed"


def test_a_larger_slowdown_is_not_accepted(tmp_path: Path, rounds: Made) -> None:
    assert applied(read(tmp_path, ENTRY), rounds(0.10)).accepted == ""


def test_an_entry_past_its_date_is_named_and_has_no_effect(tmp_path: Path, rounds: Made) -> None:
    found = applied(read(tmp_path, ENTRY), rounds(0.05), date(2027, 1, 1))
    assert (found.accepted, "accepted until 2026-12-31, which has passed" in found.reason) == ("", True)


def test_a_quarantined_series_is_shown_as_such(tmp_path: Path, rounds: Made) -> None:
    assert applied(read(tmp_path, FLAKY), rounds(0.5)).accepted.startswith("quarantined as flaky")


def test_a_quarantine_does_not_hide_what_was_not_measured(tmp_path: Path, rounds: Made) -> None:
    assert applied(read(tmp_path, FLAKY), rounds(n=0)).accepted == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param('"slower"', '"fine"', "write slower or flaky", id="unknown-kind"),
        pytest.param('reason = "exact rounding"', "", "it needs kind, reason, series, until, up_to", id="no-reason"),
        pytest.param('"exact rounding"', '" "', "the reason is empty", id="empty-reason"),
        pytest.param("2026-12-31", '"soon"', "until is 'soon', but must be a date", id="no-date"),
        pytest.param("0.08", "8", "up_to is 8, but must be a float", id="percent-instead-of-fraction"),
        pytest.param("[[accepted]]", "[[acepted]]", "only [[accepted]] entries may stand there", id="misspelt"),
        pytest.param("[[accepted]]", "[[accepted", "is not TOML", id="no-toml"),
    ],
)
def test_a_broken_file_is_refused_in_words(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ValueError, match=accepted.FILE) as error:
        read(tmp_path, ENTRY.replace(old, new))
    assert said in str(error.value)
