"""The golden page: what it shows of each judgement, and what it says where there is nothing to show."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.records import Golden, read_lines, write_json
from reports import curves, gallery, selftest
from reports.curves import Bar, Curve
from tests.reports.conftest import KNOWN, PROMPTS, WATCH, Results, golden, traced
from tests.reports.conftest import selftest as injected
from tests.reports.reading import read, section


def change_golden(folder: Path, results: Results, **changes: object) -> None:
    records, _ = read_lines(folder / "golden.jsonl", Golden)
    results.rewrite(folder, "golden.jsonl", [replace(record, **changes) for record in records])  # type: ignore[arg-type]


def test_each_case_has_one_card(two_nights: Path) -> None:
    assert (two_nights / "golden.html").read_text().count("<article") == len(PROMPTS)


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        pytest.param("The checkpoint has random weights.", "noise by design", id="random"),
        pytest.param("The trained checkpoint.", "depends on the checkpoint of each case", id="trained"),
    ],
)
def test_what_the_pictures_show_comes_from_the_reason_of_the_goldens(results: Results, reason: str, says: str) -> None:
    change_golden(results.night(1), results, golden_provenance={"reason": reason})
    assert says in read(results, "golden.html")[0]


def test_one_case_without_random_weights_is_enough_for_the_neutral_sentence(results: Results) -> None:
    folder = results.night(1)
    first, *rest = read_lines(folder / "golden.jsonl", Golden)[0]
    noise = [replace(record, golden_provenance={"reason": "random weights"}) for record in rest]
    results.rewrite(folder, "golden.jsonl", [first, *noise])
    assert "noise by design" not in read(results, "golden.html")[0]


def test_the_difference_of_identical_pictures_is_named_so(results: Results) -> None:
    change_golden(results.night(1), results, identical=True)
    text, _ = read(results, "golden.html")
    assert text.count("difference: identical") == len(PROMPTS)
    assert "difference ×" not in text


def test_an_identical_failure_is_still_shown(results: Results) -> None:
    change_golden(results.night(1), results, identical=True, status="regressed", reason="latents differ")
    assert read(results, "golden.html")[0].count("difference: identical") == 2 * len(PROMPTS)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        pytest.param("pictures/gone.png", "file is missing", id="missing"),
        pytest.param("../../../../etc/passwd", "outside the run folder", id="outside"),
        pytest.param("run.json", "not a PNG file", id="no-picture"),
        pytest.param("pictures/cut.png", "not a PNG file", id="cut-short"),
    ],
)
def test_a_picture_that_cannot_be_shown_says_why(results: Results, path: str, says: str) -> None:
    folder = results.night(1)
    (folder / "pictures" / "cut.png").write_bytes((folder / "pictures" / "t2i-fox-actual.png").read_bytes()[:17])
    change_golden(folder, results, pictures={"expected": path})
    assert says in read(results, "golden.html")[0]


def test_pruned_pictures_are_named_as_not_kept(results: Results) -> None:
    folder = results.night(1)
    for picture in (folder / "pictures").iterdir():
        picture.unlink()
    (folder / "pictures").rmdir()
    assert "pictures of this run were not kept" in read(results, "golden.html")[0]


def test_the_page_shows_value_limit_and_share(two_nights: Path) -> None:
    text = (two_nights / "golden.html").read_text()
    for wanted in ("make it night", "≥ 0.99", "difference ×16", "compatible with reordering (p = 0.4", "38%"):
        assert wanted in text


@pytest.mark.parametrize(
    ("name", "value", "limit", "used"),
    [
        pytest.param("absmax", 2.0, 8.0, 0.25, id="distance"),
        pytest.param("ssim", 0.98, 0.96, 0.5, id="similarity"),
        pytest.param("psnr", 46.0206, 40.0, 0.5, id="psnr"),
        pytest.param("absmax", 0.0, 0.0, 0.0, id="nothing-of-nothing"),
        pytest.param("absmax", 1.0, 0.0, math.inf, id="something-of-nothing"),
    ],
)
def test_the_share_of_a_limit(name: str, value: float, limit: float, used: float) -> None:
    record = replace(golden("c", "", "fused", "golden", {}), metrics={name: value}, limits={name: limit})
    assert gallery.metrics(record)[0].used == pytest.approx(used, rel=1e-4)


@pytest.mark.parametrize(
    ("value", "limit", "told"),
    [(2.0, 8.0, "25% of absmax"), (200.0, 8.0, "×25 of absmax"), (1.0, 0.0, "absmax must be 0")],
)
def test_how_much_of_its_limits_a_picture_uses_is_said(results: Results, value: float, limit: float, told: str) -> None:
    change_golden(results.night(1), results, metrics={"absmax": value}, limits={"absmax": limit})
    assert told in read(results, "golden.html")[0]


def test_latents_of_an_identical_picture_use_their_limit_all_the_same() -> None:
    limits = {"psnr": 40.0, "latent_relative_l2": 2e-7}
    record = replace(golden("c", "", "fused", "reference", {}), identical=True, limits=limits)
    record = replace(record, metrics={"psnr": math.nan, "latent_relative_l2": 1e-7})
    assert [metric.used for metric in gallery.metrics(record)] == [0.0, 0.5]


def test_a_metric_without_a_number_has_no_share() -> None:
    record = replace(golden("c", "", "fused", "golden", {}), metrics={}, limits={"ssim": 0.9})
    assert gallery.metrics(record)[0].used is None


def test_latents_that_are_equal_have_no_curve() -> None:
    record = golden("c", "", "fused", "reference", {})
    assert gallery.drift(record)
    assert gallery.drift(replace(record, latents=[replace(e, relative_l2=0.0) for e in record.latents])) == []


def test_every_known_good_run_is_in_the_histogram() -> None:
    drawn = gallery.population(golden("c", "", "fused", "reference", {}))
    assert drawn.count('class="bar"') == gallery.BINS
    assert "by 40 known-good runs" in drawn
    assert "tonight 0.38" in drawn


def test_limits_set_by_hand_are_named_so(two_nights: Path) -> None:
    told = section((two_nights / "golden.html").read_text(), "calibration")
    assert "1 of 320, at most 1.5%" in told
    assert "not measured: limits were set by hand" in told


def test_cases_that_rest_on_the_same_runs_share_a_row() -> None:
    records = [golden(case, "", "fused", "reference", {}) for case in ("a", "b")]
    other = replace(records[0], case="c", known_good=replace(KNOWN, stack="cuda"))
    assert [basis.cases for basis in selftest.bases([*records, other])] == [["a", "b"], ["c"]]


def test_a_missed_fault_is_marked_and_says_what_to_type(results: Results) -> None:
    folder = results.night(1)
    write_json(folder / "selftest.json", injected("regressed", "one-token is not seen"))
    told = section(read(results, "golden.html")[0], "detection")
    assert told.count('<tr class="bad">') == 1
    assert "motbench golden selftest --fault one-token" in told
    assert "<strong>0 of 6</strong>" in told


def test_a_run_without_a_self_test_says_so(results: Results) -> None:
    (results.night(1) / "selftest.json").unlink()
    assert "the gate was not tested in this run" in read(results, "golden.html")[0]


def test_a_gap_in_a_curve_is_a_gap() -> None:
    drawn = curves.svg("t", [Curve("a", [1.0, math.nan, 2.0, 3.0])], [])
    assert (drawn.count("M"), drawn.count("<circle")) == (2 + drawn.count('class="rule"'), 3)


def test_a_curve_of_nothing_is_not_drawn() -> None:
    assert curves.svg("t", [Curve("a", [0.0, math.nan])], []) == ""


def test_a_limit_that_ends_at_zero_is_named_where_it_was_last_drawn() -> None:
    assert ">limit<" in curves.svg("t", [Curve("a", [1.0, 2.0])], [3.0, 0.0])


def test_marks_of_a_histogram_carry_their_label() -> None:
    assert ">limit<" in curves.histogram("t", [Bar(0, 1, 3)], [("limit", 1.0, "limit")])


def test_a_trace_is_drawn_where_the_picture_is_judged_against_the_reference(two_nights: Path) -> None:
    text = (two_nights / "golden.html").read_text()
    assert text.count("Where the difference begins") == 1
    assert text.count('aria-label="local error by branch"') == 1
    assert "compatible with reordering (p = 0.4, 12 known-good runs)" in text


def test_a_trace_of_one_branch_has_no_plot_of_branches() -> None:
    found = traced("cpu")
    assert len(gallery.traced_curves(found)) == 4
    assert len(gallery.traced_curves(replace(found, branches={"main": [1e-7] * 3}))) == 3


def test_controls_and_stale_limits_are_shown(two_nights: Path) -> None:
    told = section((two_nights / "golden.html").read_text(), "detection")
    assert "the golden of the fox in place of the lighthouse&#39;s: absmax 255" in told
    assert "30 runs in float32 on cpu used 12% of it (p99), 20% at most" in told


def test_a_gate_that_sees_no_difference_is_blind(results: Results) -> None:
    blind = replace(WATCH, controls=[replace(WATCH.controls[0], outside=False)])
    write_json(results.night(1) / "golden_watch.json", blind)
    assert "no: the gate is blind" in section(read(results, "golden.html")[0], "detection")


def test_answers_mark_the_words_that_differ() -> None:
    record = replace(golden("q", "", "fused", "golden", {}), texts={"expected": "a red cat", "actual": "a blue <cat>"})
    (expected, actual) = gallery.answers(record)
    assert expected == ("expected", "a<mark> red</mark><mark> cat</mark>")
    assert actual == ("actual", "a<mark> blue</mark><mark> &lt;cat&gt;</mark>")


def test_an_answer_and_its_picture_are_shown(results: Results) -> None:
    folder = results.night(1)
    records, _ = read_lines(folder / "golden.jsonl", Golden)
    asked = replace(
        records[0],
        case="what",
        task="understand",
        prompt="what is it?",
        texts={"expected": "a fox", "actual": "a cat"},
        pictures={"input": records[0].pictures["expected"]},
    )
    results.rewrite(folder, "golden.jsonl", [*records, asked])
    text = read(results, "golden.html")[0]
    assert "a<mark> cat</mark>" in text
    assert 'alt="input picture of what' in text
