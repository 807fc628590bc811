"""How what a command raises becomes one line and an exit code."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from motbench.exits import guarded


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def run() -> NoReturn:
        raise error

    return run


@pytest.mark.parametrize("kind", [ValueError, TypeError, NotImplementedError, OSError, FileNotFoundError])
def test_a_refusal_is_one_line_and_bad_input(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(kind("K is 3\n but must be 4"))) == 2
    assert capsys.readouterr().err == "motbench: K is 3 but must be 4\n"


def test_what_the_system_says_of_a_file_has_a_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = tmp_path / "lost.json"
    assert guarded(lambda: print(lost.read_text())) == 2
    assert capsys.readouterr().err == f"motbench: {lost}: no such file or directory; check the path\n"


def test_anything_else_is_our_fault_and_its_traceback_is_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guarded(raising(KeyError("lost"))) == 5
    said = capsys.readouterr().err
    found = re.fullmatch(r"motbench: internal error: KeyError: 'lost'; the traceback is in (.+)\n", said)
    assert found
    assert Path(found.group(1)).parent == tmp_path
    assert "raise error\nKeyError: 'lost'" in Path(found.group(1)).read_text()


def test_an_interruption_has_the_shells_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "motbench: interrupted; what was recorded so far is kept\n"


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (4, 4), ("words", 2)])
def test_a_command_that_leaves_keeps_its_code(code: str | int | None, expected: int) -> None:
    assert guarded(lambda: sys.exit(code)) == expected


def test_a_command_that_returns_passed() -> None:
    assert guarded(lambda: None) == 0
