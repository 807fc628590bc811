"""Several machines: merged into one folder, never compared, and missed when they vanish."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.records import Environment
from motbench import merge
from motbench.nightly import only_one
from reports import trend_told


@pytest.fixture
def other(told) -> Environment:
    return replace(told.environment, gpu="another GPU")


def asv_file(results: Path, value: float, started: int, name: str = "linear") -> Path:
    path = results / "asv" / "gpu-abc123" / "0123abcd-overlay.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ["result", "params", "version", "started_at"]
    data = {"version": 2, "commit_hash": "0123abcd" * 5, "result_columns": columns}
    path.write_text(json.dumps(data | {"results": {name: [[value], [], "protocol 1", started]}}))
    return path


def test_lines_of_two_machines_are_two(told, other) -> None:
    told.nights([1e-3] * 12)
    told.nights([2e-3] * 12, first=12, environment=other)
    found = told.trend(24)
    assert (found.events, sorted(drawn.line.hardware for drawn in found.lines)) == (
        [],
        ["a GPU, 2 cores", "another GPU, 2 cores"],
    )


def test_a_machine_that_vanished_is_not_measured(told, other) -> None:
    told.night(1, [1e-3], occasion="20261101T020000Z-a")
    told.night(2, [1e-3], occasion="20261110T020000Z-b", environment=other)
    found = told.trend(3)
    assert (found.status, found.sentence) == (
        "not-measured",
        "a GPU, 2 cores has measured nothing since 2026-11-01: its series are not measured.",
    )
    assert found.vanished[0] in trend_told.terminal(found)


@pytest.mark.parametrize("day", ["20261109", "20260901"], ids=["yesterday", "retired"])
def test_a_machine_that_rests_or_was_retired_is_not_missed(told, other, day: str) -> None:
    told.night(1, [1e-3], occasion=f"{day}T020000Z-a")
    told.night(2, [1e-3], occasion="20261110T020000Z-b", environment=other)
    assert told.trend(3).vanished == []


def test_merging_brings_what_was_missing(told, tmp_path: Path) -> None:
    told.nights([1e-3] * 3)
    mine = tmp_path / "mine"
    assert merge.into(mine, told.path)["runs"] == 3
    assert sorted(p.name for p in mine.glob("runs/*")) == sorted(p.name for p in told.path.glob("runs/*"))


def test_merging_again_brings_nothing(told, tmp_path: Path) -> None:
    told.nights([1e-3] * 3)
    asv_file(told.path, 1.0, 5)
    mine = tmp_path / "mine"
    merge.into(mine, told.path)
    assert merge.into(mine, told.path).total() == 0


def test_merging_changes_no_run_that_is_there(told, tmp_path: Path) -> None:
    folder = told.night(0, [1e-3])
    mine = tmp_path / "mine"
    (mine / "runs" / folder.name).mkdir(parents=True)
    merge.into(mine, told.path)
    assert list((mine / "runs" / folder.name).iterdir()) == []


@pytest.mark.parametrize(("theirs", "kept"), [(9, 2.0), (1, 1.0)], ids=["theirs is newer", "ours is newer"])
def test_of_two_asv_results_the_newer_one_is_kept(tmp_path: Path, theirs: int, kept: float) -> None:
    ours = asv_file(tmp_path / "mine", 1.0, 5)
    asv_file(tmp_path / "theirs", 2.0, theirs)
    merge.into(tmp_path / "mine", tmp_path / "theirs")
    assert json.loads(ours.read_text())["results"]["linear"][0] == [kept]


def test_asv_results_of_other_benchmarks_are_joined(tmp_path: Path) -> None:
    ours = asv_file(tmp_path / "mine", 1.0, 5)
    asv_file(tmp_path / "theirs", 2.0, 5, name="norm")
    merge.into(tmp_path / "mine", tmp_path / "theirs")
    assert sorted(json.loads(ours.read_text())["results"]) == ["linear", "norm"]


def test_a_broken_asv_file_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    ours = asv_file(tmp_path / "mine", 1.0, 5)
    before = ours.read_bytes()
    asv_file(tmp_path / "theirs", 2.0, 9).write_text('{"half')
    with pytest.raises(ValueError, match="is not JSON"):
        merge.into(tmp_path / "mine", tmp_path / "theirs")
    assert ours.read_bytes() == before


@pytest.mark.parametrize("name", ["roofline/one.json", "step/card/one.json", "pictures/one.json", "serving/one.json"])
def test_merging_brings_single_records(tmp_path: Path, name: str) -> None:
    (tmp_path / "theirs" / name).parent.mkdir(parents=True)
    (tmp_path / "theirs" / name).write_text("{}")
    assert merge.into(tmp_path / "mine", tmp_path / "theirs").total() == 1
    assert (tmp_path / "mine" / name).read_text() == "{}"
    assert merge.into(tmp_path / "mine", tmp_path / "theirs").total() == 0


def test_another_record_of_the_same_name_is_refused_and_none_is_lost(tmp_path: Path) -> None:
    for side in ("mine", "theirs"):
        (tmp_path / side / "roofline").mkdir(parents=True)
        (tmp_path / side / "roofline" / "one.json").write_text(json.dumps(side))
    with pytest.raises(ValueError, match="differ; rename one of them"):
        merge.into(tmp_path / "mine", tmp_path / "theirs")
    assert (tmp_path / "mine" / "roofline" / "one.json").read_text() == '"mine"'


def test_a_missing_folder_is_named_while_a_night_runs(tmp_path: Path) -> None:
    with only_one(tmp_path / "mine"), pytest.raises(ValueError, match="nowhere does not exist"):
        merge.merge([tmp_path / "nowhere"], tmp_path / "mine")


def test_what_is_no_results_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a results folder"):
        merge.into(tmp_path / "mine", tmp_path)
