"""The trends and speed pages as data, and since when something is as it is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.records import Golden, SchemaError, Series, Stages, read_lines, write_json
from reports import dashboard, joint, speed_page, verdict, words
from reports.gallery import cards
from reports.history import Point
from reports.item import Item
from reports.night import load
from reports.since import Judged, look, since
from reports.verdict import Verdict
from tests.reports import history
from tests.reports.conftest import GPU, Results, compared, roofline
from tests.reports.reading import read, section

A, B, C = "a" * 40, "b" * 40, "c" * 40
RED = Item("golden", "regressed", "fox fused against reference", "ssim")
GREEN = Item("golden", "pass", "golden", "all hold")
LOST = Item("golden", "not-measured", "golden", "no picture")


@pytest.fixture(scope="module")
def trends() -> dict[str, Any]:
    """The page's data of 40 commits, as the browser gets it."""
    text = dashboard.script(history.judged(40, 40))
    assert text.startswith("const TRENDS = {")
    data: dict[str, Any] = json.loads(text.removeprefix("const TRENDS = ").rstrip(";\n"))
    return data


def line(trends: dict[str, Any], impl: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in trends["lines"] if (one["op"], one["shape"], one["impl"]) == ("linear qkv", "4098 cold", impl)
    )
    return found


def test_commits_keep_the_order_of_the_history(trends: dict[str, Any]) -> None:
    assert trends["commits"] == [commit[:10] for commit in history.commits(40)]


def test_twins_share_a_view(trends: dict[str, Any]) -> None:
    assert line(trends, "fused")["view"] == line(trends, "reference")["view"]


def test_a_failure_is_a_gap_and_not_a_zero(trends: dict[str, Any]) -> None:
    failed = [one for one in trends["lines"] if None in one["values"]]
    assert failed
    assert all(one["n"][one["values"].index(None)] == 0 for one in failed)


def test_a_change_of_the_environment_is_said_once(trends: dict[str, Any]) -> None:
    found = line(trends, "fused")
    assert found["eras"] == ["", "driver 570 to 580, torch 2.10.0 to 2.11.0"]
    assert found["era"] == [0] * 20 + [1] * 20


def test_the_step_is_an_event_with_its_commit(trends: dict[str, Any]) -> None:
    (event,) = [one for one in trends["events"] if one["kind"] == "slower"]
    assert event["view"] == line(trends, "fused")["view"]
    assert abs(event["at"] - 30) <= 1
    assert event["told"].startswith("slower +")


def test_a_band_is_students_interval_with_pooled_noise() -> None:
    processes = [math.exp(0.01), math.exp(-0.01)]
    points = [Point(commit, "run", "f", 1, processes) for commit in (A, B)]
    # Two degrees of freedom, t = 4.3027; the deviation is 0.01 * sqrt(2), of which a mean of two has 0.01.
    assert dashboard._bands(points) == [round(1e4 * math.expm1(4.3027 * 0.01))] * 2


def test_one_process_each_has_no_band() -> None:
    assert dashboard._bands(history.made(4, 1, processes=1).lines[0].points) == [0] * 4


def test_a_series_without_a_dtype_has_that_of_its_profile() -> None:
    one = Series("linear.track_seconds", {"layer": "qkv", "impl": "fused", "shape": "1026", "cache": "hot"})
    assert dashboard.place(one, "gpu", "H100").dtype == "bfloat16"
    assert dashboard.place(replace(one, params={**one.params, "dtype": "float16"}), "gpu", "H100").dtype == "float16"


def test_no_history_is_not_measured_and_says_what_to_type(results: Results) -> None:
    results.night(1)
    assert "Not measured: no history has been judged; type: motbench trend" in read(results, "trends.html")[0]


def test_a_history_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "trend.json").write_text("{")
    found, why = dashboard.read(tmp_path)
    assert found is None
    assert "trend.json" in why


def test_a_history_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trend.json").write_text('{"schema": 7}')
    with pytest.raises(SchemaError):
        dashboard.read(tmp_path)


def judged(run: str, *items: Item) -> Judged:
    return Judged(run, run[0] * 40, Verdict(run, "regressed", "", list(items)))


@pytest.mark.parametrize(
    ("earlier", "first", "before"),
    [
        pytest.param([], "d", None, id="first-night"),
        pytest.param([judged("c", GREEN)], "d", "c", id="tonight"),
        pytest.param([judged("c", RED), judged("b", GREEN), judged("a", RED)], "c", "b", id="for-two-nights"),
        pytest.param([judged("c", LOST), judged("b", RED), judged("a", GREEN)], "b", "a", id="a-gap-says-nothing"),
        pytest.param([judged("c", RED), judged("b", LOST)], "c", None, id="never-without"),
    ],
)
def test_since_when(earlier: list[Judged], first: str, before: str | None) -> None:
    found = since(RED, judged("d", RED), earlier)
    assert found.first.run_id == first
    assert (found.before.run_id if found.before else None) == before


def broken(results: Results, day: int, commit: str) -> Path:
    """A night in which the fox is wrong."""
    folder = results.night(day, commit, GPU, judge=False)
    records, _ = read_lines(folder / "golden.jsonl", Golden)
    fox = [
        replace(r, status="regressed", reason="ssim", words="outside: first at step 2")
        if (r.case, r.against) == ("t2i-fox", "reference")
        else r
        for r in records
    ]
    results.rewrite(folder, "golden.jsonl", fox)
    write_json(folder / "verdict.json", verdict.judge(folder, results.path))
    return folder


def test_a_broken_picture_stands_on_the_first_page_with_its_commit(results: Results) -> None:
    results.night(1, A, GPU)
    broken(results, 2, B)
    broken(results, 3, C)
    shown = section(read(results)[0], "look")
    assert "outside: first at step 2" in shown
    assert f"since commit <code>{B[:8]}</code>" in shown
    assert f"before it <code>{A[:8]}</code> did not have it" in shown
    assert shown.count("data-viewer=") == 1


def test_what_failed_is_shown_in_full_on_an_earlier_page_and_what_passed_in_a_line(results: Results) -> None:
    folder = broken(results, 1, A)
    results.night(2, B, GPU)
    text = read(results, f"runs/{folder.name}-golden.html")[0]
    assert text.count("data-viewer=") == 1
    assert text.count('<p class="judgement pass"') == 5


def test_a_slow_benchmark_is_shown_with_its_trend(results: Results) -> None:
    folder = results.night(1, A, GPU)
    changes = dashboard.changes(history.judged(40, 40))
    slow = Item("time", "regressed", "linear.track_seconds", "slower")
    tonight = Judged(folder.name, A, Verdict(folder.name, "regressed", "", [slow]))
    (looked,) = look(tonight, [], cards(load(folder), results.path / "site"), changes)
    assert [change.event.kind for change in looked.changes if change.event.certainty == "found"] == ["slower"]


def test_a_kernel_is_held_against_the_floor(results: Results) -> None:
    write_json(results.path / "roofline" / "one.json", roofline())
    (found,), damage = speed_page.kernels(results.path)
    row = found.rows[0]
    assert damage == []
    assert row.floor == pytest.approx(3.4e10 / 8e14)
    assert row.shares["fused"] == pytest.approx(row.floor / 6e-5)
    assert (row.dense, row.reference, row.best) == (5e-5, 1e-4, ("two cuBLAS, sorted", 6.4e-5))


def test_the_speed_page_counts_the_measurements_of_every_roofline(results: Results) -> None:
    for name in ("one", "two"):
        write_json(results.path / "roofline" / f"{name}.json", roofline())
    assert "4 measurements of kernels on NVIDIA H100 80GB HBM3 against" in read(results, "speed.html")[0]


def timed(results: Results, kind: str, *ways: str) -> str:
    """The kernels of a roofline whose ops were timed in these ways."""
    found = roofline()
    points = [replace(point, kind=kind, samples={way: [5e-5] for way in ways}) for point in found.points]
    write_json(results.path / "roofline" / "one.json", replace(found, points=points))
    return section(read(results, "speed.html")[0], "kernels")


def test_quantised_kernels_have_no_column_of_the_reference(results: Results) -> None:
    shown = timed(results, "int8", "fused", "dense")
    assert ">dense</th>" in shown
    assert ">reference</th>" not in shown
    assert ">to reference</th>" not in shown
    assert "not measured" not in shown


def test_a_dense_kernel_without_its_reference_was_not_measured(results: Results) -> None:
    assert timed(results, "dense", "fused", "dense").count("not measured") == 2


def test_to_a_norm_beside_layers_reference_and_dense_do_not_apply(results: Results) -> None:
    found = roofline()
    norm = replace(found.points[0], name="rms_norm", samples={"fused": [6e-6], "copy": [5e-6]})
    write_json(results.path / "roofline" / "one.json", replace(found, points=[*found.points, norm]))
    shown = section(read(results, "speed.html")[0], "kernels")
    assert shown.count("does not apply") == 2
    assert "not measured" not in shown


def test_a_roofline_that_cannot_be_read_is_named(results: Results) -> None:
    (results.path / "roofline").mkdir()
    (results.path / "roofline" / "cut.json").write_text("{")
    assert "roofline/cut.json cannot be read" in section(read(results, "speed.html")[0], "missing")


def test_a_comparison_is_shown_with_what_it_could_see(results: Results) -> None:
    compared(results.path / "comparisons" / "one")
    shown = section(read(results, "speed.html")[0], "comparisons")
    (decision,) = speed_page.comparisons(results.path)[0][0].verdict.decisions
    assert decision.status == "regressed"
    assert decision.change is not None
    assert words.change(decision.change.ratio - 1) in shown
    assert (results.path / "comparisons" / "one" / joint.VERDICT).exists()


def test_stages_are_medians_over_processes() -> None:
    params = {"task": "t2i", "impl": "fused"}
    records = [Stages("g", params, A, "f", 1, i, i, "", {"denoising": float(i)}) for i in (1, 2, 9)]
    (row,) = speed_page.stages(records)
    assert (row.total, row.processes) == (2.0, 3)


def test_a_stage_is_the_median_of_the_processes_that_have_it() -> None:
    seconds = [{"denoising": 1.0}, {"denoising": 1.0, "vision": 4.0}, {"denoising": 1.0}]
    records = [Stages("g", {"task": "edit"}, A, "f", 1, i, i, "", each) for i, each in enumerate(seconds)]
    (row,) = speed_page.stages(records)
    assert row.seconds == {"denoising": 1.0, "vision": 4.0}


def test_a_moved_number_has_no_percentage() -> None:
    event = history.judged(40, 40).events[0]
    assert dashboard.by(replace(event, ratio=math.nan)) == ""


def test_a_comparison_says_which_op_made_the_difference(results: Results) -> None:
    compared(results.path / "comparisons" / "one")
    shown = section(read(results, "speed.html")[0], "comparisons")
    assert '<th scope="row">attention</th>' in shown
    assert '<th scope="row">everything else</th>' in shown


def test_a_machine_that_vanished_is_not_measured(results: Results) -> None:
    found = replace(history.judged(8, 4), vanished=["the H100 has measured nothing for 9 days"])
    write_json(results.path / "trend.json", found)
    assert "the H100 has measured nothing for 9 days" in section(read(results, "trends.html")[0], "damage")


def test_an_op_whose_floor_is_unknown_reaches_no_share_of_it(results: Results) -> None:
    found = roofline()
    uncounted = [replace(found.points[0], flops=0.0, bytes=0.0)]
    write_json(results.path / "roofline" / "one.json", replace(found, points=uncounted))
    (one,), _ = speed_page.kernels(results.path)
    assert (one.rows[0].floor, one.rows[0].shares) == (None, {})
    assert "0 s" not in section(read(results, "speed.html")[0], "kernels")


OTHER = replace(GPU, gpu="NVIDIA A100")


def test_the_first_page_is_of_the_machine_that_is_worst_off(results: Results) -> None:
    folder = broken(results, 1, A)
    results.night(1, B, OTHER)
    text, _ = read(results)
    assert f"{folder.name} · motbench</title>" in text
    assert '<body class="regressed">' in text
    assert f'<a href="runs/20261101T020000Z-{B[:8]}.html">NVIDIA A100</a>' in text


def test_a_stored_regression_whose_record_is_gone_stays(results: Results) -> None:
    folder = broken(results, 1, A)
    (folder / "golden.jsonl").unlink()
    assert '<body class="regressed">' in read(results)[0]


def test_of_equals_the_newest_stands_first(results: Results) -> None:
    results.night(1, A, GPU)
    newest = results.night(2, B, OTHER)
    assert verdict.latest(results.path).run_id == newest.name


def test_a_machine_of_another_week_does_not_stand_first(results: Results) -> None:
    broken(results, 1, A)
    newest = results.night(9, B, OTHER)
    assert verdict.latest(results.path).run_id == newest.name


def test_a_later_run_of_the_same_machine_replaces_a_broken_one(results: Results) -> None:
    broken(results, 1, A)
    newest = results.night(2, C, GPU)
    assert verdict.latest(results.path).run_id == newest.name


def test_a_trend_that_is_worse_than_the_run_gives_the_colour(results: Results) -> None:
    results.night(1, A, GPU)
    write_json(results.path / "trend.json", history.judged(40, 40))
    text, _ = read(results)
    assert '<body class="regressed">' in text
    assert "(&#39;qkv&#39;, &#39;fused&#39;, &#39;4098&#39;, &#39;cold&#39;) is slower by +" in text
    assert "Tonight's run: The fused and the reference implementation agree" in text


def test_a_run_that_is_worse_than_the_trend_keeps_its_own_sentence(results: Results) -> None:
    broken(results, 1, A)
    write_json(results.path / "trend.json", history.judged(8, 4))
    text, _ = read(results)
    assert '<body class="regressed">' in text
    assert "Tonight" not in text.partition("</header>")[0].replace("tonight", "")
