"""The page: whole, closed, escaped, and built from whatever is there."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from benchmarks.harness.records import (
    Golden,
    Parity,
    SchemaError,
    Series,
    Timing,
    Value,
    append_line,
    read_lines,
    write_json,
)
from reports import site, trend
from tests.reports import history
from tests.reports.conftest import Results, roofline
from tests.reports.reading import Reader, contents, read, section

A, B = "a" * 40, "b" * 40
PAGES = [
    "index.html",
    "golden.html",
    "trends.html",
    "speed.html",
    "runs/20261101T020000Z-aaaaaaaa.html",
    "runs/20261101T020000Z-aaaaaaaa-golden.html",
]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onmouseover='alert(3)"


def change_golden(folder: Path, results: Results, **changes: object) -> None:
    records, _ = read_lines(folder / "golden.jsonl", Golden)
    results.rewrite(folder, "golden.jsonl", [replace(record, **changes) for record in records])  # type: ignore[arg-type]


@pytest.mark.parametrize("page", PAGES)
def test_every_element_is_closed(two_nights: Path, page: str) -> None:
    assert Reader((two_nights / page).read_text()).open == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_or_a_section_of_the_site(two_nights: Path, page: str) -> None:
    reader = Reader((two_nights / page).read_text())
    assert len(reader.links) > 8
    for link in reader.links:
        name, _, anchor = link.partition("#")
        target = (two_nights / page).parent / unquote(name) if name else two_nights / page
        assert target.resolve().is_relative_to(two_nights.resolve())
        assert target.is_file()
        assert not anchor or "=" in anchor or anchor in Reader(target.read_text()).ids


def test_nothing_asks_the_network(two_nights: Path) -> None:
    for path in two_nights.rglob("*"):
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, never asked for
            assert not re.search(r"https?://|@import|//\w+\.", text), path


def test_pages_run_only_the_scripts_beside_them(two_nights: Path) -> None:
    for path in two_nights.rglob("*.html"):
        reader = Reader(path.read_text())
        for script in reader.scripts:
            assert (path.parent / script).resolve().parent == two_nights.resolve()
        assert not [name for name, _ in reader.attributes if name.startswith("on")]


def test_hostile_records_are_text(results: Results) -> None:
    folder = results.night(1, judge=False)
    change_golden(folder, results, prompt=HOSTILE, case=HOSTILE, reason=HOSTILE, status="regressed", reproduce=HOSTILE)
    records, _ = read_lines(folder / "parity.jsonl", Parity)
    results.rewrite(folder, "parity.jsonl", [replace(r, op=HOSTILE, tile=HOSTILE, case="$x^{") for r in records])
    for page in ("index.html", "golden.html"):
        text, reader = read(results, page)
        assert reader.open == []
        assert "inline" not in reader.scripts
        assert not [name for name, _ in reader.attributes if name.startswith("on")]
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_hostile_histories_and_kernels_are_text(results: Results) -> None:
    results.night(1)
    found = history.judged(8, 4)
    one = Series(HOSTILE, {"layer": HOSTILE, "shape": HOSTILE, "impl": HOSTILE})
    drawn = [replace(d, line=replace(d.line, series=one, hardware=HOSTILE)) for d in found.lines]
    event = trend.Event(one, HOSTILE, "slower", "found", A, B, B, 1.1, 1.0, 1.2, 0.1, reproduce=HOSTILE, standing=True)
    write_json(results.path / "trend.json", replace(found, lines=drawn, events=[event], sentence=HOSTILE))
    kernels = roofline()
    points = [replace(kernels.points[0], name=HOSTILE, tile=HOSTILE)]
    write_json(results.path / "roofline" / "one.json", replace(kernels, points=points, dtype=HOSTILE))
    for page in ("index.html", "trends.html", "speed.html"):
        text, reader = read(results, page)
        assert reader.open == []
        assert "inline" not in reader.scripts
        assert not [name for name, _ in reader.attributes if name.startswith("on")]
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize("name", [HOSTILE, "$x^{$", "\x00\x1b", ""], ids=["html", "mathematics", "control", "empty"])
def test_a_plot_of_hostile_names_is_still_a_picture(results: Results, name: str) -> None:
    folder = results.night(1, judge=False)
    records, _ = read_lines(folder / "parity.jsonl", Parity)
    results.rewrite(folder, "parity.jsonl", [replace(r, op=name) for r in records])
    read(results)
    for plot in (results.path / "site" / "plots").iterdir():
        assert not [e.tag for e in ElementTree.parse(plot).iter() if e.tag.endswith("script")]


def test_numbers_of_a_night_are_on_its_page(two_nights: Path) -> None:
    text = (two_nights / "index.html").read_text()
    for wanted in (
        "1.6",
        "faster",
        "NVIDIA H100 80GB HBM3",
        "580.95.05",
        "2.11.0+cu128",
        "<dd>heuristic; tuned for H100</dd>",
    ):
        assert wanted in text


def test_every_cell_of_a_table_that_stacks_names_its_column(two_nights: Path) -> None:
    tables = re.findall(r'<table class="stack">.*?</table>', (two_nights / "index.html").read_text(), re.DOTALL)
    assert len(tables) > 8
    assert not re.findall(r"<td(?![^>]*data-label=)[^>]*>", "".join(tables))


@pytest.mark.parametrize(
    ("region", "column"),
    [("Conformance of each case", "verdict"), ("Parity of each op", "outside"), ("Numbers other than times", "number")],
)
def test_the_answer_stands_beside_the_name(two_nights: Path, region: str, column: str) -> None:
    table = (two_nights / "index.html").read_text().partition(f'aria-label="{region}"')[2]
    assert re.findall(r"<th scope=\"col\"[^>]*>([^<]*)", table)[1] == column


def test_a_place_that_all_rows_share_is_said_once(results: Results) -> None:
    results.night(1)
    assert read(results)[0].count("reference, float32 on cpu") == 1


def test_a_time_outside_the_profile_says_why(results: Results) -> None:
    results.night(1)
    text, _ = read(results)
    assert "Fused times need a GPU: fused kernels run in Triton&#39;s interpreter on a CPU" in text


def test_an_implementation_that_cannot_be_timed_here_has_no_column_and_no_plot(results: Results) -> None:
    results.night(1)
    times = section(read(results)[0], "time")
    assert '<th scope="col" class="n">reference</th>' in times
    assert '<th scope="col" class="n">fused</th>' not in times
    assert "<picture" not in times


def test_both_implementations_have_columns_and_plots_on_a_gpu(two_nights: Path) -> None:
    times = section((two_nights / "index.html").read_text(), "time")
    assert '<th scope="col" class="n">fused</th>' in times
    assert times.count("<picture") == times.count("<h3>") - 1
    assert "need a GPU" not in times


@pytest.mark.parametrize(("factor", "marked"), [(1.15, False), (1.30, True)], ids=["calm", "noisy"])
def test_a_spread_between_processes_over_ten_percent_is_marked(results: Results, factor: float, marked: bool) -> None:
    folder = results.night(1, judge=False)
    one, *others = read_lines(folder / "timing.jsonl", Timing)[0]
    slow = replace(one, samples=[factor * sample for sample in one.samples])
    results.rewrite(folder, "timing.jsonl", [slow, *others])
    times = section(read(results)[0], "time")
    assert (f"1 of {len(others) // 3 + 1} times spread by over 10% between processes" in times) is marked
    assert ("±1" in times) is marked


def test_one_process_has_no_spread(results: Results) -> None:
    results.night(1, processes=1)
    assert '<td class="n" data-label="spread">one process</td>' in read(results)[0]


def test_equal_pictures_are_stored_once(results: Results) -> None:
    results.night(1, A)
    one = len(list((site.build(results.path, results.path / "site").parent / "pictures").iterdir()))
    results.night(2, B)
    assert len(list((site.build(results.path, results.path / "site").parent / "pictures").iterdir())) == one


def test_an_empty_results_folder_gives_a_page_that_says_so(results: Results) -> None:
    text, _ = read(results)
    assert "there is no run yet" in text
    assert '<body class="not-measured">' in text


def test_an_interrupted_run_gives_a_page_that_says_so(results: Results) -> None:
    results.folder("20261101T020000Z-aaaaaaaa").mkdir(parents=True)
    assert "the run was interrupted before its first step" in read(results)[0]


@pytest.mark.parametrize(
    "name", ["run.json", "doctor.json", "series.json", "verdict.json", "golden.jsonl", "timing.jsonl"]
)
@pytest.mark.parametrize("text", ["", "{", "null", "[[]]", "\x00\xff"], ids=repr)
def test_no_broken_file_stops_the_page(results: Results, name: str, text: str) -> None:
    (results.night(1) / name).write_text(text)
    assert read(results)[1].open == []


@pytest.mark.parametrize("name", ["run.json", "doctor.json", "golden.jsonl", "timing.jsonl"])
def test_a_stored_pass_whose_records_broke_is_not_measured(results: Results, name: str) -> None:
    path = results.night(1) / name
    path.write_text(path.read_text()[:-20])
    text = read(results)[0]
    assert '<body class="not-measured">' in text
    assert f"{name} " in text


JUDGED = ["run.json", "doctor.json", "series.json", "conformance.jsonl", "parity.jsonl", "golden.jsonl", "timing.jsonl"]


@pytest.mark.parametrize("name", JUDGED)
def test_a_stored_pass_whose_records_are_gone_is_not_measured(results: Results, name: str) -> None:
    (results.night(1) / name).unlink()
    assert '<body class="not-measured">' in read(results)[0]


def test_a_broken_earlier_run_is_listed(results: Results) -> None:
    (results.night(1, A) / "run.json").write_text("{")
    results.night(2, B)
    assert "20261101T020000Z-aaaaaaaa" in read(results)[0]


def test_an_earlier_run_of_another_schema_is_listed_with_the_reason(results: Results) -> None:
    folder = results.night(1, A)
    (folder / "verdict.json").write_text((folder / "verdict.json").read_text().replace('"schema": 1', '"schema": 0'))
    results.night(2, B)
    assert "schema 0 is not 1" in read(results)[0]


def test_a_newest_run_of_another_schema_is_refused(results: Results) -> None:
    folder = results.night(1)
    (folder / "run.json").write_text((folder / "run.json").read_text().replace('"schema": 1', '"schema": 7'))
    with pytest.raises(SchemaError, match="schema 7 is not 1"):
        site.build(results.path, results.path / "site")


def test_a_refused_build_keeps_the_old_report(results: Results) -> None:
    folder = results.night(1)
    before = read(results)[0]
    (folder / "run.json").write_text('{"schema": 7}')
    with pytest.raises(SchemaError):
        site.build(results.path, results.path / "site")
    assert (results.path / "site" / "index.html").read_text() == before
    assert {path.name for path in results.path.iterdir()} == {"runs", "site"}


def test_building_twice_gives_the_same_files(results: Results) -> None:
    results.night(1)
    first = contents(site.build(results.path, results.path / "site").parent)
    assert contents(site.build(results.path, results.path / "site").parent) == first


def test_a_folder_that_is_no_report_is_never_replaced(results: Results, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is not a report"):
        site.build(results.path, tmp_path / "mine")


def test_a_value_is_shown_once_with_its_processes(results: Results) -> None:
    folder = results.night(1)
    values, _ = read_lines(folder / "values.jsonl", Value)
    append_line(folder / "values.jsonl", values[0])
    assert "run record of 4 processes" in read(results)[0]


def test_the_command_prints_the_page_and_leaves_with_the_verdict(results: Results) -> None:
    folder = results.night(1, judge=False)
    (folder / "golden.jsonl").unlink()
    done = report("--results", results.path)
    assert done.returncode == 4
    assert str(results.path / "site" / "index.html") in done.stdout
    assert done.stdout.startswith("NOT-MEASURED: ")


def test_the_command_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = report("--results", tmp_path / "nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "does not exist" in done.stderr


def test_the_command_refuses_another_schema_in_one_line(results: Results) -> None:
    (results.night(1) / "run.json").write_text('{"schema": 7}')
    done = report("--results", results.path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "run.json: schema 7 is not 1; use the motbench version that wrote it" in done.stderr


def test_the_report_loads_no_torch(results: Results) -> None:
    results.night(1)
    code = (
        "import pathlib, sys; from reports import retention, site; root = pathlib.Path(sys.argv[1])\n"
        "site.build(root, root / 'site'); retention.prune(root, 1)\n"
        "sys.exit([m for m in ('torch', 'triton', 'asv') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, results.path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "motbench", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
