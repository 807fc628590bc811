"""The verdict: what is missing closes the gate, numerics come before time, and unlike things are never compared."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.records import (
    Check,
    Conformance,
    Golden,
    Parity,
    Profile,
    Run,
    SchemaError,
    Step,
    Timing,
    Value,
    read_json,
    read_lines,
    write_json,
)
from reports import verdict
from tests.reports.conftest import CPU, GPU, Results

A, B, C = "a" * 40, "b" * 40, "c" * 40


def subjects(judged: verdict.Verdict, status: str) -> list[str]:
    return [f"{item.area} {item.subject}" for item in judged.items if item.status == status]


def edit(folder: Path, name: str, kind: type, change: Callable[[int, Any], Any]) -> None:
    """Change the records of a JSON-lines file by index; None drops one."""
    found, _ = read_lines(folder / name, kind)
    changed = [change(i, record) for i, record in enumerate(found)]
    Results(folder.parents[1]).rewrite(folder, name, [record for record in changed if record is not None])


def fused_linear(factor: float) -> Callable[[str, dict[str, str]], float]:
    return lambda benchmark, params: (
        factor if benchmark == "linear.track_seconds" and params.get("impl") == "fused" else 1.0
    )


def test_the_first_night_passes_and_says_that_it_has_no_baseline(results: Results) -> None:
    judged = verdict.judge(results.night(1), results.path)
    assert judged.status == "pass"
    assert "no baseline: this is the first stored run; tonight's times become it" in judged.sentence


def test_a_verdict_survives_a_round_trip(results: Results) -> None:
    results.night(1, A)
    folder = results.night(2, B)
    assert read_json(folder / "verdict.json", verdict.Verdict) == verdict.judge(folder, results.path)


def test_a_quiet_second_night_passes_against_the_first(results: Results) -> None:
    first = results.night(1, A)
    judged = verdict.judge(results.night(2, B), results.path)
    assert (judged.status, judged.baseline) == ("pass", first.name)


def test_a_slower_kernel_is_regressed_and_names_the_command(results: Results) -> None:
    results.night(1, A, GPU)
    judged = verdict.judge(results.night(2, B, GPU, fused_linear(1.2)), results.path)
    assert subjects(judged, "regressed") == ["time linear.track_seconds"]
    assert judged.items[-2].reproduce == r"motbench compare aaaaaaaa bbbbbbbb --bench '^linear\.track_seconds'"


def test_a_failing_op_names_the_test_that_shows_it(results: Results) -> None:
    folder = results.night(1)
    fail_parity(folder)
    item = next(i for i in verdict.judge(folder, results.path).items if i.status == "regressed")
    assert item.reproduce == "python -m pytest tests/mot_impl -k 'linear/qkv and float32'"


def test_a_faster_kernel_is_improved(results: Results) -> None:
    results.night(1, A, GPU)
    assert verdict.judge(results.night(2, B, GPU, fused_linear(0.8)), results.path).status == "improved"


def test_a_shift_below_the_floor_passes(results: Results) -> None:
    results.night(1, A, GPU)
    assert verdict.judge(results.night(2, B, GPU, fused_linear(1.03)), results.path).status == "pass"


def test_a_shift_that_the_reference_shares_is_inconclusive(results: Results) -> None:
    results.night(1, A, GPU)
    judged = verdict.judge(results.night(2, B, GPU, lambda benchmark, params: 1.3), results.path)
    assert judged.status == "inconclusive"
    assert "the reference series moved" in judged.sentence


def test_two_processes_are_too_few_to_call_it_regressed(results: Results) -> None:
    results.night(1, A, GPU)
    judged = verdict.judge(results.night(2, B, GPU, fused_linear(1.3), processes=2), results.path)
    assert judged.status == "inconclusive"
    assert "only 2 of 3 processes" in judged.sentence


def test_the_same_commit_cannot_regress(results: Results) -> None:
    results.night(1, A, GPU)
    judged = verdict.judge(results.night(2, A, GPU, fused_linear(1.5)), results.path)
    assert judged.status == "pass"
    assert any(
        c.reason.endswith("the baseline is the same commit: this is the machine's noise") for c in judged.comparisons
    )


def test_a_slow_night_never_becomes_the_baseline(results: Results) -> None:
    first = results.night(1, A, GPU)
    results.night(2, B, GPU, fused_linear(1.5))
    judged = verdict.judge(results.night(3, C, GPU, fused_linear(1.5)), results.path)
    assert (judged.status, judged.baseline) == ("regressed", first.name)


def test_a_slow_night_that_was_accepted_becomes_the_baseline(results: Results) -> None:
    results.night(1, A, GPU)
    second = results.night(2, B, GPU, fused_linear(1.5))
    (second / "accepted.txt").write_text("the new kernel is exact\n")
    judged = verdict.judge(results.night(3, C, GPU, fused_linear(1.5)), results.path)
    assert (judged.status, judged.baseline) == ("pass", second.name)


def test_a_dirty_night_is_no_baseline(results: Results) -> None:
    results.night(1, A, stored=False)
    judged = verdict.judge(results.night(2, B), results.path)
    assert "this is the first stored run" in judged.sentence


def test_a_dirty_tree_is_told_that_its_times_are_not_stored(results: Results) -> None:
    assert "dirty" in verdict.judge(results.night(1, stored=False), results.path).sentence


def test_another_environment_is_never_compared(results: Results) -> None:
    results.night(1, A, replace(CPU, torch="2.12.0"))
    judged = verdict.judge(results.night(2, B), results.path)
    assert judged.comparisons == []
    assert "the environment changed from torch 2.12.0 to torch 2.13.0+cpu" in judged.sentence


def test_another_protocol_is_never_compared(results: Results) -> None:
    results.night(1, A)
    judged = verdict.judge(results.night(2, B, protocol=2), results.path)
    assert "the measuring protocol changed from 1 to 2" in judged.sentence


def fail_conformance(folder: Path) -> None:
    edit(folder, "conformance.jsonl", Conformance, lambda i, r: replace(r, ok=i > 0))


def fail_parity(folder: Path) -> None:
    edit(folder, "parity.jsonl", Parity, lambda i, r: replace(r, ok=i > 0))


def fail_golden(folder: Path) -> None:
    edit(folder, "golden.jsonl", Golden, lambda i, r: r if i else replace(r, status="regressed", reason="SSIM is low"))


@pytest.mark.parametrize("fail", [fail_conformance, fail_parity, fail_golden], ids=["conformance", "parity", "golden"])
def test_speed_is_void_where_numerics_failed(results: Results, fail: Callable[[Path], None]) -> None:
    results.night(1, A, GPU)
    folder = results.night(2, B, GPU, fused_linear(0.5))
    fail(folder)
    judged = verdict.judge(folder, results.path)
    assert (judged.status, judged.comparisons) == ("regressed", [])
    assert [item.reason for item in judged.area("time")] == ["not judged: numerics failed"]


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-20])


def no_step(folder: Path) -> None:
    run = read_json(folder / "run.json", Run)
    write_json(folder / "run.json", replace(run, steps=run.steps[:3] + run.steps[4:]))


def dead_step(folder: Path) -> None:
    run = read_json(folder / "run.json", Run)
    write_json(folder / "run.json", replace(run, steps=[*run.steps[:3], Step("golden", "not-measured", 9.0, "killed")]))


def lost_number(folder: Path) -> None:
    edit(folder, "parity.jsonl", Parity, lambda i, r: r if i else replace(r, worst=math.nan))


def lost_metric(folder: Path) -> None:
    edit(folder, "golden.jsonl", Golden, lambda i, r: r if i else replace(r, metrics={}))


def lost_golden(folder: Path) -> None:
    edit(folder, "golden.jsonl", Golden, lambda i, r: r if i else replace(r, status="not-measured", reason="no golden"))


def no_fused_picture(folder: Path) -> None:
    edit(folder, "golden.jsonl", Golden, lambda i, r: r if r.against == "golden" else None)


def no_compared_field(folder: Path) -> None:
    edit(folder, "conformance.jsonl", Conformance, lambda i, r: replace(r, differences=[]))


def lost_series(folder: Path) -> None:
    edit(folder, "timing.jsonl", Timing, lambda i, r: None if r.benchmark == "mlp.track_seconds" else r)


def empty_samples(folder: Path) -> None:
    edit(folder, "timing.jsonl", Timing, lambda i, r: replace(r, samples=[]))


def lost_value(folder: Path) -> None:
    edit(folder, "values.jsonl", Value, lambda i, r: replace(r, value=math.nan))


def foreign_times(folder: Path) -> None:
    edit(folder, "timing.jsonl", Timing, lambda i, r: replace(r, commit=C))


def expects_nothing(folder: Path) -> None:
    write_json(folder / "series.json", Profile([], []))


def failed_check(folder: Path) -> None:
    write_json(folder / "doctor.json", [Check("disk", "failed", "0 bytes free", "free some")])


MISSING: dict[str, tuple[Callable[[Path], None], str]] = {
    "doctor-file": (drop("doctor.json"), "environment doctor"),
    "conformance-file": (drop("conformance.jsonl"), "conformance conformance"),
    "parity-file": (drop("parity.jsonl"), "parity parity"),
    "golden-file": (drop("golden.jsonl"), "golden against reference"),
    "timing-file": (drop("timing.jsonl"), "time linear.track_seconds"),
    "values-file": (drop("values.jsonl"), "time quality.track_ssim"),
    "series-file": (drop("series.json"), "time series"),
    "doctor-cut-short": (cut("doctor.json"), "environment doctor.json"),
    "conformance-cut-short": (cut("conformance.jsonl"), "conformance conformance.jsonl"),
    "parity-cut-short": (cut("parity.jsonl"), "parity parity.jsonl"),
    "golden-cut-short": (cut("golden.jsonl"), "golden golden.jsonl"),
    "timing-cut-short": (cut("timing.jsonl"), "time timing.jsonl"),
    "series-cut-short": (cut("series.json"), "time series.json"),
    "run-cut-short": (cut("run.json"), "environment run.json"),
    "run-file": (drop("run.json"), "environment run.json"),
    "step-never-ran": (no_step, "golden step golden"),
    "step-died": (dead_step, "golden step golden"),
    "parity-number": (lost_number, "parity linear/qkv fused float32 on cpu"),
    "golden-metric": (lost_metric, "golden t2i-lighthouse reference against golden"),
    "golden": (lost_golden, "golden t2i-lighthouse reference against golden"),
    "fused-picture": (no_fused_picture, "golden against reference"),
    "conformance-fields": (no_compared_field, "conformance t2i_base"),
    "series": (lost_series, "time mlp.track_seconds"),
    "samples": (empty_samples, "time linear.track_seconds"),
    "value": (lost_value, "time quality.track_ssim"),
    "times-of-another-commit": (foreign_times, "time benchmark records"),
    "expectations": (expects_nothing, "time series"),
    "failed-check": (failed_check, "environment disk"),
}


@pytest.mark.parametrize(("lose", "subject"), MISSING.values(), ids=MISSING.keys())
def test_whatever_is_missing_is_not_measured(results: Results, lose: Callable[[Path], None], subject: str) -> None:
    folder = results.night(1)
    lose(folder)
    judged = verdict.judge(folder, results.path)
    assert judged.status == "not-measured"
    assert subject in subjects(judged, "not-measured")


def test_a_night_that_ended_with_the_doctor_says_that_no_step_ran(results: Results) -> None:
    folder = results.night(1)
    run = read_json(folder / "run.json", Run)
    write_json(folder / "run.json", replace(run, steps=[Step("doctor", "not-measured", 1.0, "disk: full")]))
    for name in ("conformance.jsonl", "parity.jsonl", "golden.jsonl", "timing.jsonl", "values.jsonl"):
        (folder / name).unlink()
    judged = verdict.judge(folder, results.path)
    assert [item.subject for item in judged.items if item.reason == "the step did not run"] == [
        "step conformance",
        "step parity",
        "step golden",
        "step asv",
    ]
    assert judged.sentence.startswith("Not everything was measured: step doctor: disk: full")


def test_why_asv_was_not_run_is_said_once(results: Results) -> None:
    folder = results.night(1)
    lost_golden(folder)
    (folder / "timing.jsonl").unlink()
    (folder / "values.jsonl").unlink()
    run = read_json(folder / "run.json", Run)
    why = "no time is measured while golden is not green"
    write_json(folder / "run.json", replace(run, steps=[*run.steps[:4], Step("asv", "not-measured", 0.0, why)]))
    assert [item.reason for item in verdict.judge(folder, results.path).area("time")] == [why]


def test_a_missing_golden_keeps_its_own_words_beside_its_step(results: Results) -> None:
    folder = results.night(1)
    edit(folder, "golden.jsonl", Golden, lambda i, r: replace(r, status="not-measured", reason="no golden"))
    run = read_json(folder / "run.json", Run)
    write_json(folder / "run.json", replace(run, steps=[*run.steps[:3], Step("golden", "not-measured", 9.0, "see")]))
    assert {item.reason for item in verdict.judge(folder, results.path).area("golden")} == {"no golden"}


def test_series_outside_the_profile_are_not_missed(results: Results) -> None:
    folder = results.night(1)
    profile = read_json(folder / "series.json", Profile)
    assert profile.outside
    assert verdict.judge(folder, results.path).status == "pass"


def test_something_regressed_outweighs_something_missing(results: Results) -> None:
    folder = results.night(1)
    fail_golden(folder)
    drop("doctor.json")(folder)
    assert verdict.judge(folder, results.path).status == "regressed"


def test_an_identical_picture_needs_no_psnr(results: Results) -> None:
    folder = results.night(1)
    lost = {"psnr": math.nan}
    edit(folder, "golden.jsonl", Golden, lambda i, r: replace(r, identical=True, metrics={**r.metrics, **lost}))
    assert verdict.judge(folder, results.path).status == "pass"


def test_asv_says_why_a_series_is_missing(results: Results) -> None:
    folder = results.night(1, A)
    lost_series(folder)
    axes = [["'reference'"], ["'small'"], ["'hot'"]]
    results.asv(A, {"mlp.track_seconds": (None, axes, ["impl", "shape", "cache"], "seconds")}, day=1)
    item = next(i for i in verdict.judge(folder, results.path).items if i.subject == "mlp.track_seconds")
    assert item.reason == "the benchmark failed: reference small hot"


def test_a_run_of_another_schema_is_refused(results: Results) -> None:
    folder = results.night(1)
    (folder / "run.json").write_text((folder / "run.json").read_text().replace('"schema": 1', '"schema": 7'))
    with pytest.raises(SchemaError, match=r"run.json: schema 7 is not 1"):
        verdict.judge(folder, results.path)


def test_the_summary_fits_a_screen(results: Results) -> None:
    folder = results.night(1)
    edit(folder, "golden.jsonl", Golden, lambda i, r: replace(r, status="regressed", reason="SSIM is low"))
    edit(folder, "parity.jsonl", Parity, lambda i, r: replace(r, ok=False))
    text = verdict.summary_text(verdict.judge(folder, results.path))
    assert len(text.splitlines()) <= 24
    assert text.splitlines()[0].startswith("REGRESSED: 10 ops and 6 pictures regressed")
    assert "exit code 1" in text


def test_a_record_cannot_drive_the_terminal(results: Results) -> None:
    folder = results.night(1)
    edit(folder, "golden.jsonl", Golden, lambda i, r: replace(r, status="regressed", reason="\x1b[2J\x07gone"))
    assert "\x1b" not in verdict.summary_text(verdict.judge(folder, results.path))
