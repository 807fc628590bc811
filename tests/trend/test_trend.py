"""What happened, since when, and who is suspect."""

from collections.abc import Callable
from datetime import date

import pytest

from benchmarks.harness.records import Series, read_json, write_json
from reports import trend, trend_told
from reports.accepted import Accepted
from reports.decide import Decision, Effect
from reports.joint import Asked, Joint
from reports.trend import Event, Trend


def slower(n: int = 30, at: int = 22, by: float = 1.05) -> list[float]:
    return [1e-3 * (by if i >= at else 1.0) for i in range(n)]


@pytest.fixture
def step(told) -> Event:
    told.nights(slower())
    (event,) = told.events(30)
    return event


def test_a_slowdown_is_named_with_its_commit(step: Event) -> None:
    assert (step.kind, [commit.subject for commit in step.suspects]) == ("slower", ["change 22"])


def test_its_ratio_has_an_interval(step: Event) -> None:
    assert step.low < 1.05 < step.high
    assert step.high - step.low < 0.01


def test_asv_is_asked_too(step: Event) -> None:
    assert step.asv


def test_the_line_to_type_names_both_sides(step: Event, numbered: Callable[[int], str]) -> None:
    assert step.reproduce.startswith(f"motbench bisect {numbered(21)[:10]} {numbered(22)[:10]} --bench ")


def test_a_standing_slowdown_is_regressed(told) -> None:
    told.nights(slower())
    found = told.trend(30)
    assert (found.status, found.sentence) == (
        "regressed",
        f"linear.track_seconds('qkv', 'fused') is slower by {found.events[0].ratio - 1:+.1%} since "
        f"{found.events[0].after[:8]}; 1 series over 30 commits.",
    )


def test_one_that_was_undone_is_past(told) -> None:
    told.nights([*slower(), *([1e-3] * 10)])
    found = told.trend(40)
    assert found.status == "improved"
    assert [(event.kind, event.standing) for event in found.events] == [("faster", True), ("slower", False)]


def test_one_that_is_old_is_past(told) -> None:
    told.nights(slower(60, 12))
    assert told.trend(60).status == "pass"


def test_unmeasured_commits_widen_the_range(told) -> None:
    for i, figure in enumerate(slower(40, 30)):
        if i % 2 == 0:
            told.night(i, [figure, figure * 1.001, figure * 0.999])
    (event,) = told.events(40)
    assert [commit.subject for commit in event.suspects] == ["change 29", "change 30"]


def test_without_a_suspect_it_is_the_machine(told) -> None:
    told.nights(slower())
    found = told.trend(30, touching=lambda number: number != 22)
    assert (found.status, found.events[0].machine) == ("pass", "no commit in between touches what it measures")


def test_time_that_changed_while_the_kernels_did_not_is_the_machine(told) -> None:
    told.nights(slower(), kernels="abc")
    found = told.trend(30)
    assert (found.status, found.events[0].machine) == ("pass", "time changed, the compiled kernels did not")


def test_a_tile_that_changed_with_the_time_is_named(told) -> None:
    told.nights([1e-3] * 22, tile="64x64 (tuned)")
    told.nights([1.1e-3] * 4, first=22, tile="32x32 (heuristic)")
    found = told.trend(26)
    assert found.events[0].tile == "64x64 (tuned) to 32x32 (heuristic)"
    assert "tile 64x64 (tuned) to 32x32 (heuristic)" in trend_told.terminal(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [("new_driver", "driver 570 to 580"), ("new_torch", "torch 2.11.0 to 2.12.0"), (None, "protocol 1 to 2")],
)
def test_a_series_is_cut_where_the_environment_changed(told, request, change: str | None, words: str) -> None:
    told.nights([1e-3] * 12)
    other = {"environment": request.getfixturevalue(change)} if change else {"protocol": 2}
    told.nights([1.2e-3] * 12, first=12, **other)
    found = told.trend(24)
    assert (found.status, found.events, [era.changed for era in found.lines[0].eras]) == ("pass", [], ["", words])


def test_measured_twice_a_commit_is_the_machines(told) -> None:
    told.nights([1e-3] * 10)
    for i in range(10):
        told.night(9, [1.1e-3, 1.1e-3, 1.101e-3], occasion=f"20269999T0000{i:02}Z-again")
    (event,) = told.events(10)
    assert event.machine == "the same commit before and after"


def test_a_dirty_tree_is_not_part_of_the_history(told) -> None:
    told.nights(slower(22, 30))
    told.nights([5e-3] * 8, first=22, stored=False)
    assert len(told.trend(30).lines[0].line.points) == 22


def test_a_number_that_moved_is_named_but_decides_nothing(told, ssim: Series) -> None:
    told.nights([1.0] * 10, noise=0.0, series=ssim)
    told.nights([0.99] * 3, noise=0.0, first=10, series=ssim)
    found = told.trend(13)
    assert (found.status, [event.kind for event in found.events]) == ("pass", ["moved"])
    assert found.events[0].ratio == pytest.approx(0.99)


def test_what_broke_is_read_from_asv(told, asv_file: Callable[..., None], numbered: Callable[[int], str]) -> None:
    for i in range(6):
        asv_file(i, None if i >= 4 else 1e-3)
    (event,) = told.events(6)
    assert (event.kind, event.after, told.trend(6).status) == ("broke", numbered(4), "regressed")


def test_what_was_mended_is_past(told, asv_file: Callable[..., None]) -> None:
    for i in range(6):
        asv_file(i, None if i == 4 else 1e-3)
    assert [(event.kind, event.standing) for event in told.events(6)] == [("mended", True), ("broke", False)]


@pytest.fixture
def asv_file(told, numbered: Callable[[int], str], qkv: Series) -> Callable[..., None]:
    def write(number: int, value: float | None) -> None:
        machine = told.path / "asv" / "gpu-a-gpu-abc123"
        row = [[value], [["'qkv'"], ["'fused'"]], "protocol 1", 1, [[value] if value else None]]
        columns = ["result", "params", "version", "started_at", "samples"]
        data = {"version": 2, "commit_hash": numbered(number), "result_columns": columns}
        write_json(machine / f"{numbered(number)[:8]}{number}-overlay.json", data | {"results": {qkv.benchmark: row}})
        write_json(machine / "machine.json", {"cpu": "a CPU", "num_cpu": "2", "gpu": "a GPU", "driver": "570"})
        about = {"param_names": ["layer", "impl"], "unit": "seconds"}
        write_json(told.path / "asv" / "benchmarks.json", {qkv.benchmark: about})

    return write


def joint(numbered: Callable[[int], str], series: Series, status: str, visible: float = 0.01) -> Joint:
    asked = Asked(numbered(21), numbered(22), None, 1, [series], [0.005], "", "")  # type: ignore[arg-type]
    effect = Effect(status, 1.05, 1.04, 1.06, 1e-6)  # type: ignore[arg-type]
    decision = Decision(series, status, "", 0.005, 12, effect, effect, 0.005, visible)  # type: ignore[arg-type]
    return Joint(asked, status, "", None, [decision])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "visible", "certainty"),
    [("regressed", 0.01, "confirmed"), ("pass", 0.01, "refuted"), ("inconclusive", 0.5, "found")],
)
def test_paired_rounds_across_a_step_decide(told, numbered, qkv, status: str, visible: float, certainty: str) -> None:
    told.nights(slower())
    (event,) = told.events(30, joints=[joint(numbered, qkv, status, visible)])
    assert event.certainty == certainty


def test_a_refuted_step_does_not_count(told, numbered, qkv) -> None:
    told.nights(slower())
    assert told.trend(30, joints=[joint(numbered, qkv, "pass")]).status == "pass"


def test_a_suspicion_is_inconclusive(told) -> None:
    told.nights(slower(24, 22, 1.015), noise=0.008)
    found = told.trend(24)
    assert (found.status, found.events[0].certainty) == ("inconclusive", "suspected")


@pytest.mark.parametrize(
    ("up_to", "until", "status"),
    [(0.1, date(2026, 12, 1), "pass"), (0.01, date(2026, 12, 1), "regressed"), (0.1, date(2026, 1, 1), "regressed")],
    ids=["accepted", "larger than accepted", "out of date"],
)
def test_an_accepted_slowdown_stands_without_counting(told, up_to: float, until: date, status: str) -> None:
    told.nights(slower())
    entry = Accepted("linear.track_seconds('qkv', *", "slower", until, "exact rounding", up_to)
    assert told.trend(30, accepted=[entry]).status == status


def test_nothing_measured_is_not_measured(told) -> None:
    assert told.trend(3).status == "not-measured"


def test_numbers_of_other_branches_are_counted_not_shown(told) -> None:
    told.nights([1e-3] * 5)
    assert (told.trend(3).elsewhere, len(told.trend(3).lines[0].line.points)) == (2, 3)


def test_a_broken_line_is_named(told) -> None:
    folder = told.night(0, [1e-3])
    with (folder / "timing.jsonl").open("a") as file:
        file.write('{"half a')
    assert told.trend(1).damage == [f"{folder.name} has 1 unreadable lines"]


def test_a_run_that_cannot_be_read_is_named(told) -> None:
    told.nights([1e-3] * 2)
    (folder,) = told.path.glob("runs/*0001T*")
    (folder / "run.json").write_text("{")
    assert "run.json cannot be read" in told.trend(2).damage[0]


def test_the_record_reads_back(told) -> None:
    told.nights(slower())
    found = told.trend(30)
    write_json(told.path / trend.FILE, found)
    again = read_json(told.path / trend.FILE, Trend)
    assert again.events == found.events
    assert again.lines == found.lines


def test_the_terminal_says_what_to_type(told) -> None:
    told.nights(slower())
    said = trend_told.terminal(told.trend(30))
    assert said.startswith("REGRESSED: ")
    assert "\n  motbench bisect " in said


def test_markdown_lets_no_subject_write_on_the_page(told) -> None:
    told.nights(slower())
    found = told.trend(30)
    found.events[0].suspects[:] = [trend.Commit("f" * 40, "<script>|", ["mot_impl"])]
    said = trend_told.markdown(found)
    assert "<script>" not in said
    assert "&lt;script&gt;\\|" in said


def test_bytes_have_steps_too(told, memory: Series) -> None:
    told.nights([2e9 if i >= 14 else 1e9 for i in range(20)], noise=0.0, series=memory)
    (event,) = told.events(20)
    assert (event.kind, event.ratio) == ("larger", pytest.approx(2.0))


@pytest.mark.parametrize(
    ("subject", "impl", "package", "touches"),
    [
        ("norm.track_seconds", "reference", "mot_impl", False),
        ("norm.track_seconds", "fused", "mot_impl", True),
        ("norm.track_seconds", "fused", "bagel", False),
        ("generate.track_seconds", "reference", "bagel", True),
        ("generate.track_seconds", "reference", "mot_impl", False),
        ("norm.track_seconds", "fused", "reference_impl", True),
    ],
)
def test_a_commit_touches_what_a_series_imports(subject: str, impl: str, package: str, touches: bool) -> None:
    assert trend.Commit("a" * 40, "", [package]).touches(Series(subject, {"impl": impl})) == touches


def test_of_a_series_that_broke_the_sentence_says_so(told, asv_file: Callable[..., None]) -> None:
    for i in range(6):
        asv_file(i, None if i >= 4 else 1e-3)
    assert told.trend(6).sentence.startswith("linear.track_seconds('qkv', 'fused') broke since ")
