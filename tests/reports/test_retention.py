"""What is kept for ever and what is not."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.records import Golden, read_lines
from reports import retention
from tests.reports.conftest import Results


def nights(results: Results, n: int) -> list[Path]:
    return [results.night(day, str(day) * 40) for day in range(1, n + 1)]


def with_pictures(folders: list[Path]) -> list[int]:
    return [int(folder.name[6:8]) for folder in folders if (folder / "pictures").exists()]


def test_pictures_of_the_newest_runs_are_kept(results: Results) -> None:
    folders = nights(results, 4)
    removed = retention.prune(results.path, 2)
    assert with_pictures(folders) == [3, 4]
    assert len(removed) == 2


def test_every_record_is_kept(results: Results) -> None:
    folders = nights(results, 2)
    before = {path.name for path in folders[0].iterdir()}
    retention.prune(results.path, 1)
    assert {path.name for path in folders[0].iterdir()} == before - {"pictures"}


def test_the_newest_golden_failure_keeps_its_evidence(results: Results) -> None:
    folders = nights(results, 4)
    for folder in folders[:2]:
        records, _ = read_lines(folder / "golden.jsonl", Golden)
        results.rewrite(folder, "golden.jsonl", [replace(record, status="regressed") for record in records])
    retention.prune(results.path, 1)
    assert with_pictures(folders) == [2, 4]


def test_a_link_is_not_followed(results: Results, tmp_path: Path) -> None:
    folders = nights(results, 2)
    (folders[0] / "pictures").rename(tmp_path / "elsewhere")
    (folders[0] / "pictures").symlink_to(tmp_path / "elsewhere")
    retention.prune(results.path, 1)
    assert list((tmp_path / "elsewhere").iterdir())


def test_keeping_nothing_is_refused(results: Results) -> None:
    with pytest.raises(ValueError, match="keep is 0 but must be at least 1"):
        retention.prune(results.path, 0)
