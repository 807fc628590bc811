"""The hook: a command that gets the JSON, and whose failure is told."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.harness.records import write_json
from motbench import notify
from reports import trend

KEEP = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"


def hook(told, out: Path, *, always: bool = False) -> None:
    notify.notify([sys.executable, "-c", KEEP, str(out)], results=told.path, always=always, url="https://example.org/")


@pytest.fixture
def slower(told):
    told.nights([1e-3 * (1.05 if i >= 22 else 1.0) for i in range(30)])
    write_json(told.path / trend.FILE, told.trend(30))
    return told


def test_the_command_gets_what_stands_and_what_to_type(slower, tmp_path: Path) -> None:
    hook(slower, tmp_path / "out")
    sent = json.loads((tmp_path / "out").read_text())
    assert (sent["status"], sent["url"], sent["trend"]["status"]) == ("regressed", "https://example.org/", "regressed")
    (event,) = sent["trend"]["standing"]
    assert (event["what"], event["reproduce"][:15]) == ("slower", "motbench bisect")


def test_nothing_is_sent_of_a_quiet_night(told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "message", lambda results, url: {"status": "pass"})
    hook(told, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quiet_night_is_sent_where_that_is_wanted(told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "message", lambda results, url: {"status": "pass"})
    hook(told, tmp_path / "out", always=True)
    assert (tmp_path / "out").exists()


def test_a_command_that_fails_is_told(slower) -> None:
    with pytest.raises(ValueError, match="ended with 7 and said no route; the verdict was not delivered"):
        notify.notify(
            [sys.executable, "-c", "import sys; print('no route'); sys.exit(7)"],
            results=slower.path,
            always=False,
            url="",
        )


def test_without_a_run_it_is_not_measured(told) -> None:
    assert notify.message(told.path)["status"] == "not-measured"
