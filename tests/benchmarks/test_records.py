"""Records: what is written can be read, and bad files are named rather than believed."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import records
from benchmarks.harness.records import Check, Difference, Environment, Provenance, Run, Step

ENVIRONMENT = Environment("cpu", "Linux", "some cpu", 2, "3.11.7", "2.13.0", "3.6.0", "2.3.5")
RUN = Run(
    "20261124T000000Z-0123abcd",
    "2026-11-24T00:00:00Z",
    "",
    True,
    Provenance("0123abcd", False, ENVIRONMENT, 1, 0, "2026-11-24T00:00:00Z", "motbench nightly"),
    [Step("doctor", "pass", 0.5)],
)


def test_a_nested_record_survives_a_round_trip(tmp_path: Path) -> None:
    records.write_json(tmp_path / "run.json", RUN)
    assert records.read_json(tmp_path / "run.json", Run) == RUN


@given(st.builds(Check, st.text(), st.sampled_from(["ok", "warning", "failed"]), st.text(), st.text()))
def test_any_text_survives_a_round_trip(check: Check) -> None:
    assert records.from_dict(Check, json.loads(json.dumps(records.plain(check)))) == check


def test_a_missing_number_stays_missing(tmp_path: Path) -> None:
    records.append_line(tmp_path / "x.jsonl", Difference("x_t", math.nan, 0.0, None, None, False))
    (back,), _ = records.read_lines(tmp_path / "x.jsonl", Difference)
    assert math.isnan(back.worst)


def test_a_line_cut_short_is_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    records.append_line(path, Check("a", "ok", "found"))
    path.write_text(path.read_text() + path.read_text()[:20])
    assert records.read_lines(path, Check) == ([Check("a", "ok", "found")], 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("{", "is not a Run record", id="truncated"),
        pytest.param("{}", "is not a Run record", id="fields-missing"),
        pytest.param('{"schema": 99}', "schema 99 is not 1", id="other-schema"),
        pytest.param('{"surprise": 1}', "unknown fields", id="unknown-field"),
        pytest.param("[]", "is not a Run record", id="not-an-object"),
    ],
)
def test_a_bad_record_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as refusal:
        records.read_json(path, Run)
    assert "\n" not in str(refusal.value)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    records.write_json(path, RUN)
    with pytest.raises(TypeError):
        records.write_json(path, {"not json": object()})
    assert records.read_json(path, Run) == RUN


def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import itertools, pathlib, sys\n"
        "from benchmarks.harness import records\n"
        "for i in itertools.count():\n"
        " records.append_line(pathlib.Path(sys.argv[1]), records.Check(str(i), 'ok', 500 * 'x'))"
    )
    path = tmp_path / "x.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while not path.exists() or path.stat().st_size < 100_000:
        assert writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    lines, broken = records.read_lines(path, Check)
    assert [line.name for line in lines] == [str(i) for i in range(len(lines))]
    assert broken <= 1


def test_another_driver_is_another_environment() -> None:
    other = Environment("cpu", "Linux", "some cpu", 2, "3.11.7", "2.13.0", "3.6.0", "2.3.5", driver="580")
    assert other.fingerprint != ENVIRONMENT.fingerprint


TOO_LONG = "x" * 300
"""No file can have this name, so its writing fails after that of the file before it."""


def test_of_files_that_belong_together_none_is_written_if_one_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="name too long"):
        records.write_together({tmp_path / "trace": b"new", tmp_path / TOO_LONG: b"new"})
    assert list(tmp_path.iterdir()) == []


def test_files_that_belong_together_are_all_written(tmp_path: Path) -> None:
    records.write_together({tmp_path / "folder" / "a": b"1", tmp_path / "b": b"2"})
    assert [(tmp_path / name).read_bytes() for name in ("folder/a", "b")] == [b"1", b"2"]
    assert len(list(tmp_path.rglob("*"))) == 3
