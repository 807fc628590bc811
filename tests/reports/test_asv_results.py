"""asv's files, read without asv."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asv.results import Results as AsvResults
from asv.runner import BenchmarkResult

from benchmarks.harness.records import SchemaError
from reports import asv_results
from tests.reports.conftest import Results

A = "a" * 40
AXES = [["'reference'", "'fused'"], ["'small'", "'1026'"]]


def write(results: Results, values: list[float | None] | None) -> None:
    results.asv(A, {"linear.track_seconds": (values, AXES, ["impl", "shape"], "seconds")}, day=1)


def read(results: Results) -> list[asv_results.Number]:
    return asv_results.read(results.path / "asv", A)[0]


def test_values_are_a_product_over_the_parameters(results: Results) -> None:
    write(results, [1.0, 2.0, 3.0, 4.0])
    assert read(results)[1].params == {"impl": "reference", "shape": "1026"}
    assert [n.value for n in read(results)] == [1.0, 2.0, 3.0, 4.0]


def test_null_is_failed_and_nan_is_skipped(results: Results) -> None:
    write(results, [1.0, None, math.nan, 4.0])
    assert [n.state for n in read(results)] == ["measured", "failed", "skipped", "measured"]


def test_a_benchmark_that_failed_altogether_has_a_number_for_no_series(results: Results) -> None:
    write(results, None)
    assert [(n.state, n.value) for n in read(results)] == [("failed", None)] * 4


def test_another_commit_is_not_read(results: Results) -> None:
    write(results, [1.0] * 4)
    assert asv_results.read(results.path / "asv", "b" * 40) == ([], [])


def test_a_commit_that_shares_eight_digits_is_not_read(results: Results) -> None:
    write(results, [1.0] * 4)
    assert asv_results.read(results.path / "asv", "a" * 8 + "b" * 32) == ([], [])


def test_a_file_cut_short_is_named(results: Results) -> None:
    write(results, [1.0] * 4)
    path = results.path / "asv" / "machine" / "aaaaaaaa-overlay.json"
    path.write_text(path.read_text()[:-30])
    numbers, damage = asv_results.read(results.path / "asv", A)
    assert numbers == []
    assert damage[0].startswith("asv/machine/aaaaaaaa-overlay.json cannot be read")


def test_another_version_is_refused(results: Results) -> None:
    write(results, [1.0] * 4)
    path = results.path / "asv" / "machine" / "aaaaaaaa-overlay.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 3}))
    with pytest.raises(SchemaError, match="asv result version 3 is not 2"):
        read(results)


def test_no_folder_is_no_number(tmp_path: Path) -> None:
    assert asv_results.read(tmp_path / "asv", A) == ([], [])


def test_what_asv_itself_writes_is_read(tmp_path: Path) -> None:
    started = datetime(2026, 11, 1, 2, 3, tzinfo=UTC)
    made = AsvResults({"machine": "here"}, {}, A, 0, "3.11", "overlay", {})
    outcome = BenchmarkResult(
        result=[1.5, None], samples=[[1.4, 1.5, 1.6], None], number=[1, None], errcode=0, stderr="", profile=None
    )
    benchmark = {"name": "linear.track_seconds", "version": "1", "params": [["'reference'", "'fused'"]]}
    made.add_result(benchmark, outcome, started_at=started, duration=1.0, record_samples=True)
    made.save(str(tmp_path / "asv"))
    numbers, damage = asv_results.read(tmp_path / "asv", A)
    assert damage == []
    assert [(n.params, n.state, n.value, n.started) for n in numbers] == [
        ({"param1": "reference"}, "measured", 1.5, started),
        ({"param1": "fused"}, "failed", None, started),
    ]
