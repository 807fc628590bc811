"""Calibrating two small cases from end to end: figures, limits, records, and what a check says then."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from benchmarks.harness import calibrate, calibrate_apply, calibrate_files, calibrate_propose, goldens, images, stack
from benchmarks.harness.calibrate_files import Figures, Population
from benchmarks.harness.environment import here as environment
from benchmarks.harness.faults import FAULTS
from benchmarks.harness.golden_accept import Approver, accept, propose
from benchmarks.harness.golden_case import GoldenCase, read_case, read_cases
from benchmarks.harness.known_good import reordered
from benchmarks.harness.records import Golden, from_dict
from benchmarks.harness.stack import Stack
from motbench.golden.calibrate import How, _each
from motbench.golden.common import goldens_folder
from tests.golden.conftest import FACTS, approve, change, plan
from tests.golden.test_goldens import UNBIASED

CPU = torch.device("cpu")
HERE = stack.here(CPU)
ADA = Approver("Ada <ada@example.org>", "first limits", "0" * 40)
SEEN = [FAULTS["wrong seed"], FAULTS["dropped bias"]]


def measured(root: Path, *names: str, anew: bool = False) -> Population:
    """Three known-good runs of these cases or all, and two faults in each, beside the figures that lie there."""
    cases: dict[str, dict[str, Figures]] = {}
    for case in read_cases(root, names):
        task = calibrate.Task(case, CPU, torch.float32, 3, SEEN, anew)
        cases[case.name] = {"float32": calibrate.measure(task)}
    found = Population(HERE, images.DEFINITION, "now", "0" * 40, environment(), cases)
    return calibrate_files.joined_with_stored(root, found)


def set_limits(root: Path, new: Population, by: Approver = ADA) -> None:
    others = [one for one in calibrate_files.stored(root) if one.stack != new.stack]
    changes = calibrate_propose.propose(read_cases(root), new, others, ["float32"])
    calibrate_apply.apply(root, changes, [new, *others], by)


class Set(NamedTuple):
    """A folder of two cases, and what was measured of them."""

    root: Path
    population: Population


@pytest.fixture(scope="module")
def calibrated(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Set:
    """Two approved cases with two prompts, whose limits were set once."""
    root = tmp_path_factory.mktemp("calibrated") / "golden_images"
    for name, prompt in (("cat", "a red cat"), ("dog", "a dog")):
        shutil.copytree(template, root / name)
        change(root / name, prompt=prompt)
        approve(root / name)
    population = measured(root)
    set_limits(root, population)
    return Set(root, population)


@pytest.fixture
def own(calibrated: Set, tmp_path: Path) -> Path:
    """A copy of the calibrated folder."""
    return Path(shutil.copytree(calibrated.root, tmp_path / "golden_images"))


def check(root: Path, judged: goldens.Plan) -> list[Golden]:
    return list(goldens.check([read_case(root / "cat")], judged, root.parent / "out"))


def test_a_second_measurement_finds_the_same_figures(calibrated: Set) -> None:
    assert measured(calibrated.root, "cat").cases["cat"] == calibrated.population.cases["cat"]


def test_limits_are_the_farthest_run_times_the_measured_factor(calibrated: Set) -> None:
    case = read_case(calibrated.root / "cat").on(HERE)
    by = calibrate_propose.factors(calibrated.population, ["float32"])["parity", "float32"]
    farthest = max(calibrated.population.cases["cat"]["float32"].good.parity["latent_relative_l2"])
    limits = case.limits_of("parity", "float32")
    assert limits is not None
    assert by * farthest <= limits["latent_relative_l2"] <= 1.1 * by * farthest


def test_the_record_says_who_why_and_both_rates(calibrated: Set) -> None:
    record = read_case(calibrated.root / "cat").on(HERE).record_of("drift", "float32")
    assert record is not None
    assert (record.set_by, record.reason, record.stacks) == (ADA.name, ADA.reason, [HERE.name])
    assert (record.alarms["drift float32"].runs, record.alarms["drift float32"].seen) == (6, 0)
    assert (record.detection["float32"].seen, record.detection["float32"].runs) == (2, 2)
    assert record.witness == "reference in float64 on cpu"


def test_the_base_keeps_the_old_limits_in_its_record(calibrated: Set) -> None:
    record = read_case(calibrated.root / "cat").limits_record
    assert record is not None
    assert record.old == FACTS["limits"]


def test_the_reference_is_identical(calibrated: Set, tmp_path: Path) -> None:
    (record,) = goldens.check([read_case(calibrated.root / "cat")], plan(), tmp_path)
    assert record.words == "identical"


def test_another_order_of_sums_is_compatible_with_a_p(own: Path) -> None:
    parity, _ = check(own, plan("reordered", reordered(77)))
    assert parity.words.startswith(f"compatible with reordering (p = {parity.p:.2g}, 6 known-good runs)")
    assert parity.p is not None
    assert 1 / 7 <= parity.p <= 1


def test_a_fault_is_outside_and_named_where_it_begins(own: Path) -> None:
    parity, drift = check(own, plan("my.kernels:OPS", UNBIASED))
    assert parity.words.startswith("outside: first at the text pass before step 0, layer 0, text expert, qkv")
    assert drift.words == parity.words


def test_a_record_names_the_runs_that_its_limits_rest_on(own: Path) -> None:
    parity, _ = check(own, plan("reordered", reordered(77)))
    assert parity.known_good is not None
    known = parity.known_good
    assert (known.stack, known.runs, known.prompts, len(known.scores), known.note) == (HERE.name, 6, 2, 3, "")


def test_an_unknown_stack_is_judged_by_the_base_and_told_so(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = read_case(own / "cat").limits_of("parity", "float32")
    monkeypatch.setattr(stack, "here", lambda _: Stack("H200", "sdpa", "9.9"))
    parity, _ = check(own, plan("reordered", reordered(77)))
    assert parity.limits == base
    assert "base limits, h200_sdpa_9.9 was not calibrated in float32" in parity.words


def test_the_base_is_wider_than_any_stack(calibrated: Set) -> None:
    case = read_case(calibrated.root / "cat")
    base, here = (one.limits_of("parity", "float32") or {} for one in (case, case.on(HERE)))
    assert base["latent_relative_l2"] > here["latent_relative_l2"]


def test_limits_of_another_request_are_not_taken_over(own: Path, calibrated: Set) -> None:
    """Half precision was measured for two steps; float32 is measured for three."""
    both = {name: {**one, "float16": one["float32"]} for name, one in calibrated.population.cases.items()}
    changes = calibrate_propose.propose(
        read_cases(own), dataclasses.replace(calibrated.population, cases=both), [], ["float16", "float32"]
    )
    population = dataclasses.replace(calibrated.population, cases=both)
    calibrate_apply.apply(own, changes, [population], ADA)
    assert read_case(own / "cat").on(HERE).limits_of("drift", "float16") is not None
    change(own / "cat", steps=3)
    set_limits(own, measured(own, "cat"), dataclasses.replace(ADA, reason="three steps"))
    case = read_case(own / "cat")
    assert [one.limits_of("drift", "float16") for one in (case, case.on(HERE))] == [None, None]


def test_figures_of_what_is_not_asked_any_more_are_left_out(own: Path, calibrated: Set) -> None:
    change(own / "cat", steps=3)
    assert list(calibrate_propose.current(calibrated.population, read_cases(own)).cases) == ["dog"]


def test_the_base_is_no_nearer_than_a_stack_whose_runs_scatter(own: Path, calibrated: Set) -> None:
    cat = calibrated.population.cases["cat"]["float32"]
    far = {**cat.good.parity, "latent_relative_l2": [1e-6, 1e-6, 5e-6]}
    scattered = dataclasses.replace(cat, good=dataclasses.replace(cat.good, parity=far))
    set_limits(
        own,
        dataclasses.replace(
            calibrated.population, cases={**calibrated.population.cases, "cat": {"float32": scattered}}
        ),
    )
    case = read_case(own / "cat")
    base, here = (one.limits_of("parity", "float32") or {} for one in (case, case.on(HERE)))
    assert base["latent_relative_l2"] == here["latent_relative_l2"] == 2.5e-5


def test_a_second_stack_widens_the_base_and_leaves_the_first(own: Path, calibrated: Set) -> None:
    first = read_case(own / "cat").on(HERE).limits_of("parity", "float32")
    far = json.loads(json.dumps(dataclasses.asdict(calibrated.population.cases["cat"]["float32"])))
    far["good"]["parity"]["latent_relative_l2"] = [1e-5] * 3
    wide = from_dict(Figures, far)
    other = dataclasses.replace(
        calibrated.population,
        stack=Stack("H200", "sdpa", "9.9"),
        cases={"cat": {"float32": wide}, "dog": calibrated.population.cases["dog"]},
    )
    set_limits(own, other)
    case = read_case(own / "cat")
    assert (case.limits_of("parity", "float32") or {})["latent_relative_l2"] == 2e-5
    assert case.on(HERE).limits_of("parity", "float32") == first


def test_the_base_has_the_metrics_that_only_another_stack_has(own: Path, calibrated: Set) -> None:
    cat = calibrated.population.cases["cat"]["float32"]
    few = {name: row for name, row in cat.good.parity.items() if name != "ssim_worst_tile"}
    without = dataclasses.replace(cat, good=dataclasses.replace(cat.good, parity=few))
    new = dataclasses.replace(
        calibrated.population,
        stack=Stack("H200", "sdpa", "9.9"),
        cases={**calibrated.population.cases, "cat": {"float32": without}},
    )
    set_limits(own, new)
    assert "ssim_worst_tile" in (read_case(own / "cat").limits_of("parity", "float32") or {})


def test_limits_that_were_edited_are_refused(own: Path) -> None:
    limits = json.loads((own / "cat" / "case.json").read_text())["limits"]
    limits["parity"]["float32"]["absmax"] = 15.0
    change(own / "cat", limits=limits)
    with pytest.raises(ValueError, match=r"cat/case\.json .* were edited without measuring how often they fail"):
        read_case(own / "cat")


def test_an_overlay_that_was_edited_is_refused(own: Path) -> None:
    path = own / "cat" / "stacks" / f"{HERE.name}.json"
    path.write_text(path.read_text().replace('"absmax": 1.0', '"absmax": 15.0'))
    with pytest.raises(ValueError, match="were edited without measuring"):
        read_case(own / "cat")


def test_another_request_makes_limits_not_measured(own: Path) -> None:
    change(own / "cat", steps=3)
    parity, _ = check(own, plan("reordered", reordered(77)))
    assert parity.status == "not-measured"
    assert "since its limits were measured case.json's request is" in parity.words


def refused(root: Path, new: Population, reason: str = "why") -> str:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="no limit was changed") as caught:
        set_limits(root, new, dataclasses.replace(ADA, reason=reason))
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    return str(caught.value)


def test_limits_from_one_prompt_are_refused(own: Path, calibrated: Set) -> None:
    shutil.rmtree(own / "dog")
    only = dataclasses.replace(calibrated.population, cases={"cat": calibrated.population.cases["cat"]})
    assert "the rate of false alarms in parity float32 was not measured" in refused(own, only)


def without_faults(figures: Figures) -> Figures:
    return dataclasses.replace(figures, faults=dataclasses.replace(figures.faults, names=[], parity={}, drift={}))


def test_limits_without_injected_faults_are_refused(own: Path, calibrated: Set) -> None:
    cases = {name: {"float32": without_faults(one["float32"])} for name, one in calibrated.population.cases.items()}
    assert "the rate of detected faults in float32 was not measured" in refused(
        own, dataclasses.replace(calibrated.population, cases=cases)
    )


def test_limits_of_another_request_are_refused(own: Path, calibrated: Set) -> None:
    change(own / "cat", steps=3)
    with pytest.raises(ValueError, match=r"cat has no known-good runs in float32 .* type: motbench golden calibrate"):
        set_limits(own, calibrated.population)


def test_a_golden_that_the_witness_does_not_confirm_is_refused(own: Path, calibrated: Set) -> None:
    picture = images.read_png(own / "dog" / "expected.png")
    facts = json.loads((own / "cat" / "case.json").read_text())
    facts["provenance"]["rgb"] = images.fingerprint(picture)
    (own / "cat" / "case.json").write_text(json.dumps(facts))
    shutil.copy(own / "dog" / "expected.png", own / "cat" / "expected.png")
    figures = dataclasses.replace(calibrated.population.cases["cat"]["float32"], picture=images.fingerprint(picture))
    new = dataclasses.replace(calibrated.population, cases={**calibrated.population.cases, "cat": {"float32": figures}})
    assert "cat: reference in float64 on cpu does not confirm the golden: absmax" in refused(own, new)


def test_a_fault_that_new_limits_lose_must_be_named(own: Path, calibrated: Set) -> None:
    cat = calibrated.population.cases["cat"]["float32"]
    far = {metric: [10 * max(cat.faults.drift[metric])] * 3 for metric in cat.good.drift}
    blind = dataclasses.replace(cat, good=dataclasses.replace(cat.good, drift=far))
    new = dataclasses.replace(calibrated.population, cases={**calibrated.population.cases, "cat": {"float32": blind}})
    assert "cat: the new limits no longer see wrong seed, which the old ones see" in refused(own, new)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        pytest.param({"steps": 3}, "steps is 3 but was 2", id="steps"),
        pytest.param({"timestep_shift": 2.0}, "schedule is shift 2 but was shift 1", id="schedule"),
    ],
)
def test_a_change_that_the_reason_leaves_out_is_refused(own: Path, fields: dict[str, float], says: str) -> None:
    change(own / "cat", **fields)
    assert says in refused(own, measured(own, "cat"), "a faster kernel")


def test_a_change_that_the_reason_names_is_taken(own: Path) -> None:
    change(own / "cat", steps=3)
    set_limits(own, measured(own, "cat"), dataclasses.replace(ADA, reason="three steps, because two blur"))
    assert read_case(own / "cat").void("drift", "float32") == ""


@pytest.fixture
def asked(own: Path) -> Callable[[], str]:
    """A function that proposes today's picture of the cat, and says why it is refused."""
    return lambda: propose(read_case(own / "cat").on(HERE), plan()).refusal


def test_a_new_golden_needs_no_approval_of_the_picture_there(own: Path) -> None:
    change(own / "cat", provenance=None)
    assert measured(own, "cat", anew=True).cases["cat"]["float32"].good.names


def test_processes_measure_what_one_measures() -> None:
    (case,) = read_cases(goldens_folder(), ["t2i-few-updates"])
    alone, shared = (list(_each([case], How("cpu", ["float32"], 6, False, jobs), [])) for jobs in (1, 2))
    assert shared == alone


def test_a_case_that_breaks_leaves_the_others() -> None:
    (case,) = read_cases(goldens_folder(), ["t2i-few-updates"])
    lacking = dataclasses.replace(case, folder=case.folder.with_name("no-such-case"))
    failures: list[Exception] = []
    found = list(_each([lacking, case], How("cpu", ["float32"], 6, False, 2), failures))
    assert [name for name, _, _ in found] == ["t2i-few-updates"]
    assert [str(one) for one in failures] != []


def test_limits_set_by_hand_do_not_approve(unapproved: Path) -> None:
    assert (
        "were set by hand, and how often they fail was never measured"
        in propose(read_case(unapproved).on(HERE), plan()).refusal
    )


def test_a_picture_whose_rates_were_not_measured_is_refused(own: Path, asked: Callable[[], str]) -> None:
    change(own / "cat", seed=2)
    assert "since its limits were measured" in asked()


def test_rates_of_another_picture_do_not_approve(own: Path, calibrated: Set, asked: Callable[[], str]) -> None:
    figures = dataclasses.replace(calibrated.population.cases["cat"]["float32"], picture="another")
    path = calibrate_files.path_of(own, HERE)
    new = dataclasses.replace(calibrated.population, cases={**calibrated.population.cases, "cat": {"float32": figures}})
    calibrate_files.write(path, new)
    assert "its rates were measured from another picture than this one" in asked()


def test_a_new_golden_carries_the_rates_and_what_was_asked(own: Path) -> None:
    change(own / "cat", seed=2)
    set_limits(own, measured(own, "cat", anew=True))
    accept([propose(read_case(own / "cat").on(HERE), plan())], ADA)
    approval = read_case(own / "cat").approval
    assert approval is not None
    assert approval.asked["steps"] == "2"
    assert approval.rates["false alarms"].runs == 6


def test_an_approval_that_leaves_out_a_change_is_refused(own: Path) -> None:
    change(own / "cat", steps=3)
    set_limits(own, measured(own, "cat", anew=True), dataclasses.replace(ADA, reason="one step more"))
    proposal = propose(read_case(own / "cat").on(HERE), plan())
    with pytest.raises(ValueError, match=r"steps is 3 but was 2 .* name it in --reason; nothing was accepted"):
        accept([proposal], ADA)


def judged_golden(case: GoldenCase) -> images.RGB:
    expected = case.on(HERE).expected()
    assert expected is not None
    return expected


def test_a_stack_may_have_a_golden_of_its_own(own: Path) -> None:
    before = read_case(own / "cat").expected()
    change(own / "cat", seed=2)
    set_limits(own, measured(own, "cat", anew=True))
    proposal = propose(read_case(own / "cat").on(HERE), plan())
    change(own / "cat", seed=1)
    accept([proposal], ADA, HERE)
    case = read_case(own / "cat")
    assert before is not None
    assert (case.expected() == before).all()
    assert (judged_golden(case) != before).any()
