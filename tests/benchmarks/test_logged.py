"""What a process prints is kept whole and shown at once; why it ended badly is one line."""

import os
import signal
import sys
import threading
import time

import pytest

from benchmarks.harness import logged


def python(code, log, **keywords):
    return logged.run([sys.executable, "-u", "-c", code], log, os.environ, **keywords)


def test_both_streams_reach_the_log_and_the_terminal_in_order(tmp_path, capsys):
    code = "import sys; print('one'); print('two é', file=sys.stderr); print('three')"
    assert python(code, tmp_path / "run/log") == 0
    assert (tmp_path / "run/log").read_text() == capsys.readouterr().out == "one\ntwo é\nthree\n"


def test_a_line_is_shown_before_the_process_ends(tmp_path, capsys):
    go = tmp_path / "go"
    code = f"import os, time; print('first')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('last')"
    runner = threading.Thread(target=python, args=(code, tmp_path / "log"))
    runner.start()
    shown, until = "", time.monotonic() + 20
    while not shown and time.monotonic() < until:
        time.sleep(0.02)
        shown += capsys.readouterr().out
    go.touch()
    runner.join()
    assert (shown, capsys.readouterr().out) == ("first\n", "last\n")


def test_a_process_over_its_limit_is_ended(tmp_path):
    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(TimeoutError, match=r"it took longer than 1 s and was ended"):
        python(code, tmp_path / "log", limit_s=1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "it was killed by SIGKILL"),
        ("print('motbench: K is 3'); print('motbench: K is 4'); exit(2)", "K is 4"),
        ("print('nothing'); exit(7)", "it ended with exit code 7; log holds what it said"),
    ],
    ids=["signal", "last-word", "code"],
)
def test_why_a_process_ended_badly(tmp_path, code, reason):
    assert logged.why(python(code, tmp_path / "log"), tmp_path / "log") == reason


def test_an_interruption_ends_the_process(tmp_path):
    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def interrupt():
        until = time.monotonic() + 20
        while not (note.exists() and note.read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        python(code, tmp_path / "log")
    interrupter.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
