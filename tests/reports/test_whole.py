"""The whole model on the speed page: steps, pictures and servers, from records as the commands write them."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.harness.records import plain, read_json, write_json
from reports import speed_page, whole
from reports.joint import VERDICT, Joint
from tests.reports import full_size
from tests.reports.conftest import GPU, Results, compared, roofline
from tests.reports.full_size import DENSE, EAGER, FUSED
from tests.reports.reading import read, section

STORED = Path(__file__).resolve().parents[2] / "docs" / "data"


@pytest.fixture
def full(results: Results) -> Results:
    full_size.write(results.path, GPU)
    return results


def ways(job: whole.Job) -> dict[str, whole.Way]:
    return {way.name: way for way in job.ways}


def test_a_step_stands_beside_its_baselines_and_the_floor(full: Results) -> None:
    (step,) = whole.read(full.path).steps
    (job,) = step.jobs
    assert (job.name, job.floor) == ("1026 rows", pytest.approx(0.02))
    assert ways(job)[FUSED].of_floor == pytest.approx(0.8)
    assert ways(job)[EAGER].to_fused == pytest.approx(4.0)


def test_more_work_has_no_share_of_the_same_floor(full: Results) -> None:
    (job,) = whole.read(full.path).steps[0].jobs
    assert ways(job)["fused, with a guidance branch"].of_floor is None


def test_a_way_that_failed_is_not_measured_and_says_why(full: Results) -> None:
    (job,) = whole.read(full.path).steps[0].jobs
    assert (ways(job)[DENSE].seconds, ways(job)[DENSE].why) == (None, full_size.HOSTILE)
    shown = section(read(full, "speed.html")[0], "step")
    assert "not measured: &lt;script&gt;" in shown
    assert "<script>" not in shown


def test_a_picture_is_split_into_stages_of_every_way(full: Results) -> None:
    (job,) = whole.read(full.path).pictures[0].jobs
    assert job.stage_names == ["denoising", "decoding", "context"]
    assert [(one.way, one.total, one.share) for one in job.stages] == [
        (FUSED, pytest.approx(0.4), pytest.approx(0.5)),
        (EAGER, pytest.approx(0.8), 1.0),
    ]


def test_a_step_of_more_work_has_a_floor_that_does_not_apply(full: Results) -> None:
    assert section(read(full, "speed.html")[0], "step").count("does not apply") == 1


def test_a_picture_has_no_floor_and_no_place_for_one(full: Results) -> None:
    shown = section(read(full, "speed.html")[0], "picture")
    assert "2.1 s" in shown
    assert "3.00×" in shown
    assert "not measured" not in shown
    assert "floor</th>" not in shown


def test_a_server_is_shown_by_load_with_what_it_says_of_itself(full: Results) -> None:
    loads = {load.asked: load for load in whole.read(full.path).loads}
    one = loads["1 at once, 512x512, 50 steps"]
    assert one.server == f"bagel-7b, fused, fp8, {GPU.gpu}"
    assert (one.latency["median"], one.latency["p99"]) == (1.0, None)
    assert loads["4 at once, 512x512, 50 steps"].dots["max"] == 1.0


def test_a_percentile_of_too_few_requests_is_not_measured(full: Results) -> None:
    assert section(read(full, "speed.html")[0], "serving").count("not measured") == 1 + 2  # said once, and p99 of each


def test_requests_that_failed_are_counted(results: Results) -> None:
    write_json(results.path / "serving" / "one.json", full_size.served(GPU, 2, failed=3))
    shown = section(read(results, "speed.html")[0], "serving")
    assert "9 of 12<br>3 timeout" in shown


@pytest.mark.parametrize("name", ["step", "picture", "serving"])
def test_what_nobody_measured_is_not_measured(results: Results, name: str) -> None:
    assert "Not measured: there is no record" in section(read(results, "speed.html")[0], name)


@pytest.mark.parametrize("folder", ["step", "pictures", "serving"])
@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"provenance": {"created": ""}, "points": [{}]}'])
def test_a_record_that_cannot_be_read_is_named(results: Results, folder: str, text: str) -> None:
    (results.path / folder).mkdir()
    (results.path / folder / "bad.json").write_text(text)
    assert f"{folder}/bad.json cannot be read" in section(read(results, "speed.html")[0], "missing")


def test_a_record_with_more_in_it_is_read(full: Results) -> None:
    path = full.path / "step" / "one.json"
    record = json.loads(path.read_text())
    record["points"][0]["new"] = record["new"] = 1
    path.write_text(json.dumps(record))
    assert whole.read(full.path).damage == []


def test_a_measurement_of_an_h100_is_shown(results: Results) -> None:
    (results.path / "step").mkdir()
    shutil.copy(STORED / "step_h100_63dd9e3.json", results.path / "step" / "one.json")
    (step,) = whole.read(results.path).steps
    assert step.machine == "NVIDIA H100 80GB HBM3"
    assert 0.5 < (ways(step.jobs[0])[FUSED].of_floor or 0) < 1


def test_only_the_newest_records_are_shown(results: Results) -> None:
    for i in range(whole.RECORDS + 2):
        record = full_size.served(GPU, 1)
        record["client"]["created"] = f"2026-11-02T04:00:{i:02}.000+00:00"
        write_json(results.path / "serving" / f"{i}.json", record)
    created = [load.created[17:19] for load in whole.read(results.path).loads]
    assert (created[0], len(created)) == (str(whole.RECORDS + 1), whole.RECORDS)


@pytest.mark.parametrize(
    ("dtype", "kind", "said"),
    [
        ("bfloat16", "dense", "bf16"),
        ("float16", "dense", "fp16"),
        ("bfloat16", "fp8", "fp8"),
        ("float16", "int8", "int8"),
    ],
)
def test_the_dtype_of_a_kernel_is_that_of_its_experts(results: Results, dtype: str, kind: str, said: str) -> None:
    record = plain(roofline()) | {"dtype": dtype}
    record["ceilings"]["fp8"] = 1.6e15
    for point in record["points"]:
        point["kind"] = kind
    write_json(results.path / "roofline" / "one.json", record)
    found, damage = speed_page.kernels(results.path)
    assert (damage, speed_page.choices(found)["dtype"]) == ([], [said])


def test_a_roofline_from_before_there_were_kinds_is_dense(results: Results) -> None:
    (results.path / "roofline").mkdir()
    shutil.copy(STORED / "roofline_h100_bf16.json", results.path / "roofline" / "one.json")
    found, damage = speed_page.kernels(results.path)
    assert (damage, {row.dtype for row in found[0].rows}) == ([], {"bf16"})


def test_a_comparison_shows_what_does_not_count_and_what_was_not_timed(results: Results) -> None:
    folder = results.path / "comparisons" / "one"
    compared(folder)
    decision = plain(read_json(folder / VERDICT, Joint))
    decision["damage"] = ["3 records are of another machine"]
    decision["unchanged"] = [decision["decisions"][0]["series"] | {"reason": "unchanged kernel, not timed (abc)"}]
    write_json(folder / VERDICT, decision)
    shown = section(read(results, "speed.html")[0], "comparisons")
    assert "3 records are of another machine" in shown
    assert "unchanged kernel, not timed (abc)" in shown
