"""The gate's own test: every injected fault is seen by its tier, no good run is, and the record says so."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.harness import selftest_plan
from benchmarks.harness.environment import repository_root
from benchmarks.harness.fault import TILE, Fault, Place, Setting
from benchmarks.harness.faults import FAULTS, chosen
from benchmarks.harness.golden_case import GOLDENS, GoldenCase, read_case, read_cases
from benchmarks.harness.good_runs import held_out
from benchmarks.harness.other_prompts import LATE_SEED, PROMPTS, another, with_limits
from benchmarks.harness.rates import rate
from benchmarks.harness.records import Form, Selftest, from_dict
from benchmarks.harness.selftest import Outcome, Stand, faulty, good, made, op_parity
from benchmarks.harness.selftest_table import Asked, markdown, record
from tests.golden.conftest import EDIT, FACTS, approve, change, plan

GUIDANCE = {"text_scale": 4.0, "image_scale": 1.0, "interval": [0.2, 1.0], "renorm_type": "global", "renorm_min": 0.0}
OF_THE_ISSUE = {
    "token to the wrong expert",
    "dropped bias",
    "eps 1e-5 for 1e-6",
    "rotary off by one",
    "scale slip",
    "guidance branches attend to each other",
    "one update more",
    "one update fewer",
    "wrong seed",
    "dropped K tile",
    "stale text expert",
    "gate and up swapped",
}


def approved_case(root: Path, **fields: object) -> GoldenCase:
    folder = root / "golden_images" / "small"
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(FACTS))
    change(folder, steps=4, guidance=GUIDANCE, height=48, width=48)
    change(folder, **fields)
    if "task" in fields:
        y, x = np.mgrid[:32, :48]
        Image.fromarray(np.stack([5 * x, 7 * y, x + y], axis=2).astype(np.uint8)).save(folder / "input.png")
    approve(folder)
    return read_case(folder)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Stand:
    """A picture from text, with three guided updates."""
    return Stand.of(approved_case(tmp_path_factory.mktemp("t2i")), plan())


@pytest.fixture(scope="module")
def edit_stand(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Stand:
    """An edit, with image guidance too."""
    case = approved_case(tmp_path_factory.mktemp("edit"), **EDIT, guidance={**GUIDANCE, "image_scale": 1.5})
    return Stand.of(case, plan())


def test_the_faults_that_were_asked_for_are_there() -> None:
    assert FAULTS.keys() >= OF_THE_ISSUE


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_seen_by_its_tier(stand: Stand, edit_stand: Stand, fault: Fault) -> None:
    on = next(one for one in (stand, edit_stand) if fault.fits(one.case))
    assert faulty(on, fault, 0).tiers[fault.tier] is True


def test_no_fault_stays_behind(stand: Stand) -> None:
    setting = Setting(stand.exact.pipeline, stand.case.image_request())
    for fault in FAULTS.values():
        if fault.fits(stand.case):
            fault.inject(setting, Place(fault.name))
    again = made(setting)
    assert again.picture is not None
    assert (again.picture == stand.exact.reference.picture).all()


def test_what_changes_nothing_is_seen_by_nobody(stand: Stand) -> None:
    nothing = Fault("nothing", "at all", "implementation", "fp32 trace", lambda setting, _: setting)
    outcome = faulty(stand, nothing, 0)
    assert {*outcome.tiers.values(), *outcome.metrics.values(), *outcome.gates.values()} == {False}


def test_an_op_that_raises_is_seen(stand: Stand) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("no such tile")

    assert op_parity(stand.plan, dataclasses.replace(stand.plan.ops, name="raises", linear=refuse))


def test_no_held_out_run_is_seen(stand: Stand) -> None:
    found = list(good(stand, 0, ops=True))
    assert {outcome.name for outcome in found} == {
        one.family for one in held_out(0, torch.device("cpu"), torch.float32)
    }
    assert [outcome for outcome in found if any(outcome.tiers.values())] == []


def test_a_run_that_differs_in_no_bit_is_told_from_one_that_does(stand: Stand) -> None:
    differs = {outcome.name: outcome.differs for outcome in good(stand, 0, ops=False)}
    assert (differs["rows in another order"], differs["moved"]) == (False, True)


def test_half_precision_is_judged_beside_float32(tmp_path: Path) -> None:
    case = approved_case(tmp_path, height=32, width=32, steps=2)
    limits = {"psnr": 20.0}
    facts = json.loads((case.folder / "case.json").read_text())
    for kind in facts["limits"].values():
        kind["bfloat16"] = limits
    (case.folder / "case.json").write_text(json.dumps(facts))
    on = Stand.of(read_case(case.folder), plan(dtype=torch.bfloat16))
    outcome = faulty(on, FAULTS["pixels cut off"], 0)
    assert (outcome.tiers["picture"], outcome.tiers["bfloat16 picture"]) == (True, False)


def test_a_missing_golden_leaves_the_picture_unjudged(stand: Stand) -> None:
    unapproved = dataclasses.replace(stand.exact, golden=type(stand.exact.golden)(error="none"))
    outcome = faulty(dataclasses.replace(stand, exact=unapproved, own=unapproved), FAULTS["wrong seed"], 0)
    assert "picture" not in outcome.tiers


def test_another_prompt_is_no_case_s_and_has_no_golden(stand: Stand) -> None:
    case = another(stand.case, 1)
    asked = {one.request.prompt for one in read_cases(repository_root() / GOLDENS)}
    assert not asked & {prompt for prompts in PROMPTS.values() for prompt in prompts}
    assert case.request.prompt in PROMPTS["t2i"]
    assert (case.request.seed, case.approval) == (stand.case.request.seed + LATE_SEED, None)


def test_the_case_itself_is_number_0(stand: Stand) -> None:
    assert another(stand.case, 0) is stand.case


def test_another_prompt_has_limits_of_its_own(stand: Stand) -> None:
    case = with_limits(another(stand.case, 1), stand.plan)
    own, given = case.limits_of("parity", "float32"), stand.case.limits_of("parity", "float32")
    assert own
    assert given
    assert own["latent_relative_l2"] != given["latent_relative_l2"]
    assert case.limits["drift"] == {}


def test_another_prompt_is_judged_by_them(stand: Stand) -> None:
    case = with_limits(another(stand.case, 1), stand.plan)
    found = list(good(Stand.of(case, stand.plan), 1, ops=False))
    assert [outcome for outcome in found if any(outcome.tiers.values())] == []
    assert {name for outcome in found for name in outcome.metrics} >= {"latent_relative_l2", "latent_absmax"}


def test_a_bug_in_another_prompt_s_picture_is_seen(stand: Stand) -> None:
    case = with_limits(another(stand.case, 1), stand.plan)
    outcome = faulty(Stand.of(case, stand.plan), FAULTS["token to the wrong expert"], 0)
    assert outcome.tiers["picture"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_held_out_run_is_made_twice(device: str) -> None:
    count = 19 if device == "cuda" else 12  # draws of a full test on two cases, and on four
    every = [one for draw in range(count) for one in held_out(draw, torch.device(device), torch.float32)]
    named = [f"{one.name} {one.ops}" if one.family == "library" else one.name for one in every]
    assert len(set(named)) == len(named)


def test_a_place_is_the_same_every_time_and_within_its_bounds() -> None:
    places = [Place(f"fault/{i}") for i in range(200)]
    assert {place.of(3) for place in places} == {0, 1, 2}
    assert {place.expert for place in places} == {0, 1}
    assert all(place.tile(40).stop <= 40 and place.tile(40).stop - place.tile(40).start == TILE for place in places)
    assert places[0].tile(8) == slice(0, 8)
    assert any(place.of(64, "row") != place.of(64, "k") for place in places)


def test_an_unknown_fault_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"fault typo is unknown; use one of token to the wrong expert, "):
        chosen(["wrong seed", "typo"])


def seen_in(runs: list[bool], name: str = "wrong seed", tier: str = "picture") -> list[Outcome]:
    return [Outcome(name, "a case", draw, {tier: seen}, {"psnr": seen}, {}) for draw, seen in enumerate(runs)]


def quiet(count: int, alarms: int = 0) -> list[Outcome]:
    return [Outcome("moved", "a case", draw, {"fp32 trace": draw < alarms}, {}, {}) for draw in range(count)]


def test_runs_that_were_not_made_leave_it_unmeasured() -> None:
    asked = Asked(plan(), ["a case"], [FAULTS["wrong seed"]], form="reduced", runs=400)
    found = record(asked, seen_in([True]) + quiet(299), 1.0)
    assert (found.status, found.reason) == ("not-measured", "100 of 400 runs were not made")


def test_a_run_that_differs_in_no_bit_is_not_counted() -> None:
    same = [dataclasses.replace(outcome, differs=False) for outcome in quiet(7)]
    found = recorded(seen_in([True]) + quiet(299) + same)
    assert (found.alarms.seen.runs, found.identical) == (299, 7)
    assert "| the reference bit for bit, not counted | 7 more |" in markdown(found)


def recorded(outcomes: list[Outcome], full: bool = True) -> Selftest:
    form: Form = "full" if full else "reduced"
    return record(Asked(plan(), ["a case"], [FAULTS["wrong seed"]], form), outcomes, 1.0)


def test_the_line_that_makes_it_again_chooses_the_same() -> None:
    asked = Asked(plan(), ["a case"], [FAULTS["wrong seed"]], "some cases", ("--case", "a case"))
    words = "motbench golden selftest --case 'a case' --impl reference"
    assert record(asked, quiet(1), 1.0).reproduce.startswith(words)


@pytest.mark.parametrize(
    ("outcomes", "full", "status", "reason"),
    [
        pytest.param(seen_in([True] * 20) + quiet(299), True, "pass", "", id="all-seen"),
        pytest.param(seen_in([True] * 19 + [False]) + quiet(299, 2), True, "pass", "", id="just-enough"),
        pytest.param(
            seen_in([True] * 18 + [False] * 2) + quiet(299),
            True,
            "regressed",
            "missed: wrong seed (18 of 20, picture)",
            id="missed",
        ),
        pytest.param(
            seen_in([True]) + quiet(299, 3),
            True,
            "regressed",
            "3 of 299 good runs alarm, first a case, moved 0: fp32 trace",
            id="alarms",
        ),
        pytest.param(seen_in([True]) + quiet(30), True, "not-measured", "30 good runs but 299 are needed", id="few"),
        pytest.param(seen_in([True]) + quiet(30), False, "pass", "", id="few-but-reduced"),
        pytest.param(
            seen_in([True], tier="fp32 trace") + quiet(299),
            True,
            "not-measured",
            "no case could show or judge wrong seed",
            id="its-tier-was-blind",
        ),
        pytest.param([], False, "not-measured", "no case could show or judge wrong seed", id="nothing"),
    ],
)
def test_the_status_of_a_selftest(outcomes: list[Outcome], full: bool, status: str, reason: str) -> None:
    found = recorded(outcomes, full)
    assert (found.status, found.reason) == (status, reason)


def test_a_missed_run_says_what_to_type() -> None:
    found = recorded(seen_in([True, False]))
    assert found.faults[0].wrong == [
        "motbench golden selftest --fault 'wrong seed' --case 'a case' --draws 2 "
        "--impl reference --device cpu --dtype float32"
    ]


def test_a_record_comes_back_from_json_and_has_its_tables(tmp_path: Path) -> None:
    found = recorded(seen_in([True, False]) + quiet(3))
    again: Selftest = from_dict(Selftest, json.loads(json.dumps(dataclasses.asdict(found))))
    assert again == found
    text = markdown(again)
    assert "| wrong seed: the next one | picture | 1 of 2 (2.5%) |" in text
    assert "| **all good runs** | 0 of 3 (63.2%) |" in text
    assert "| `psnr` | 0 of 1 | 1 of 2 | - |" in text


@pytest.mark.parametrize(
    ("seen", "runs", "low", "high"),
    [(0, 299, 0.0, 0.00997), (59, 59, 0.9505, 1.0), (0, 0, math.nan, math.nan)],
    ids=["no-alarm", "all-seen", "no-run"],
)
def test_bounds_are_clopper_and_pearsons(seen: int, runs: int, low: float, high: float) -> None:
    found = rate(seen, runs)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4, nan_ok=True)


def cases_of(stand: Stand, *steps: int) -> list[GoldenCase]:
    request = stand.case.request
    return [
        dataclasses.replace(stand.case, folder=Path(f"case-{count}"), request=dataclasses.replace(request, steps=count))
        for count in steps
    ]


def test_the_full_form_has_every_fault_on_every_case_and_enough_good_runs(stand: Stand) -> None:
    tasks = selftest_plan.full(cases_of(stand, 9, 4), list(FAULTS.values()), draws=2, good_runs=299, families=7)
    assert [(task.case, task.request, task.draws) for task in tasks if task.faults] == [
        ("case-4", 0, 2),
        ("case-9", 0, 2),
    ]
    fitting = {fault.name for fault in FAULTS.values() if fault.fits(stand.case)}
    assert [set(task.faults) for task in tasks if task.faults] == [fitting, fitting]
    assert 7 * sum(len(task.good) for task in tasks if not task.request) >= 299


def test_op_parity_judges_each_draw_of_good_runs_once_the_cases_in_turn(stand: Stand) -> None:
    tasks = selftest_plan.full(cases_of(stand, 9, 4), list(FAULTS.values()), draws=1, good_runs=70, families=7)
    assert [(task.case, task.ops) for task in tasks if task.ops] == [("case-4", (0, 2, 4)), ("case-9", (1, 3))]


def test_another_prompt_of_every_case_is_a_further_draw(stand: Stand) -> None:
    tasks = selftest_plan.full(cases_of(stand, 9, 4), list(FAULTS.values()), draws=1, good_runs=299, families=7)
    own = [draw for task in tasks if not task.request for draw in task.good]
    assert [(task.case, task.faults) for task in tasks if task.request] == [("case-4", ()), ("case-9", ())]
    assert not set(own) & {draw for task in tasks if task.request for draw in task.good}


def test_faults_that_need_no_trace_are_first(stand: Stand) -> None:
    task, *_ = selftest_plan.full(cases_of(stand, 4), list(FAULTS.values()), draws=1, good_runs=0, families=7)
    parts = [FAULTS[name].part for name in task.faults]
    assert parts == sorted(parts, reverse=True)


@pytest.mark.parametrize("workers", [1, 4, 15])
def test_workers_share_the_same_runs(stand: Stand, workers: int) -> None:
    tasks = selftest_plan.full(cases_of(stand, 9, 4), list(FAULTS.values()), draws=2, good_runs=299, families=7)
    parts = selftest_plan.shared(tasks, workers)
    assert len(parts) >= workers
    assert runs_of(parts) == runs_of(tasks)


def runs_of(tasks: list[selftest_plan.Task]) -> list[tuple[str, int, str, int]]:
    faults = [(task.case, task.request, fault.name, draw) for task in tasks for fault, draw in task.places()]
    return sorted(faults + [(task.case, task.request, "good", draw) for task in tasks for draw in task.good])


def test_the_reduced_form_has_every_fault_once_on_the_cheapest_case(stand: Stand, edit_stand: Stand) -> None:
    longer = dataclasses.replace(edit_stand.case.request, steps=20)
    edit = dataclasses.replace(edit_stand.case, folder=Path("edit"), request=longer)
    faults = list(FAULTS.values())
    tasks = selftest_plan.reduced([*cases_of(stand, 9, 4), edit], faults, draws=1, good_draws=1)
    assert sorted(name for task in tasks for name in task.faults) == sorted(FAULTS)
    assert {task.case for task in tasks} == {"case-4", "edit"}
