"""Pictures of quantised layers: their known-good runs, and limits of each kind's own."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mot_impl
import reference_impl
from benchmarks.harness import calibrate, goldens, precision
from benchmarks.harness.fault import Setting
from benchmarks.harness.faults import FAULTS
from benchmarks.harness.golden_case import read_case
from benchmarks.harness.golden_limits import judged_metrics
from benchmarks.harness.good_sums import tiled
from benchmarks.harness.known_good import by_norm, rounded_once, variants
from benchmarks.harness.records import Golden
from motbench.golden.common import goldens_folder
from reference_impl.contract import Experts, Kind, MoTOps, Route
from reference_impl.quantise import quantise
from tests.golden.conftest import EXACT, change, plan

CPU = torch.device("cpu")
OPS = reference_impl.OPS
ROUTE = Route.from_mask(torch.tensor([0, 0, 1, 1, 0, 1, 1]).bool())
WIDE = {"p99_9": 255.0}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(kind: Kind) -> tuple[Experts, Experts]:
    """gate_up and down of 100 columns, which no tile divides, and 30."""
    return quantise(Experts(drawn(2, 60, 100, seed=1)), kind), quantise(Experts(drawn(2, 100, 30, seed=2)), kind)


@pytest.mark.parametrize("kind", precision.QUANTISED)
@pytest.mark.parametrize("make", [tiled, rounded_once], ids=["tiles", "rounded once"])
def test_known_good_sums_of_quantised_layers_are_the_references(make: Callable[[int], MoTOps], kind: Kind) -> None:
    x, (gate_up, down) = drawn(7, 100), layers(kind)
    for seed in range(4):
        for op, experts in (("linear", (gate_up,)), ("gated_linear", (gate_up,)), ("gated_mlp", (gate_up, down))):
            expected = getattr(OPS, op)(x, *experts, ROUTE)
            found = getattr(make(seed), op)(x, *experts, ROUTE)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=f"{op}, seed {seed}")


def test_known_good_norms_of_rows_in_fp8_are_the_references() -> None:
    given = drawn(7, 100).float(), drawn(7, 100, seed=3).float(), drawn(2, 100, seed=4).float(), ROUTE, 1e-6, None
    (total, rows), (expected_total, expected) = (one.quantised_add_rms_norm(*given) for one in (by_norm(OPS), OPS))
    assert torch.equal(total, expected_total)
    assert torch.equal(rows.values.float(), expected.values.float())


def test_short_sums_lose_what_hoppers_accumulator_loses() -> None:
    x, (gate_up, _) = drawn(7, 100).float(), layers("fp8")
    whole, short = OPS.linear(x, gate_up, ROUTE), tiled(0, True).linear(x, gate_up, ROUTE)
    apart = float((whole - short).norm() / whole.norm())
    assert 2**-16 < apart < 2**-11


@pytest.mark.parametrize(("kind", "has"), [("fp8", True), ("int8", False), (None, False)])
def test_only_fp8_has_runs_with_short_sums(kind: Kind | None, has: bool) -> None:
    families = {variant.family for variant in variants(16, CPU, torch.bfloat16, kind)}
    assert ("accumulator" in families) == has


@pytest.mark.parametrize("name", precision.NAMES)
def test_a_precision_is_read_as_it_is_written(name: str) -> None:
    assert precision.named(*precision.parsed(name)) == name


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision 'float32-fp4' is not one of float32, "):
        precision.parsed("float32-fp4")


def test_the_largest_difference_of_quantised_pictures_has_no_limit() -> None:
    assert "absmax" in judged_metrics("parity", "float32")
    assert "absmax" not in judged_metrics("parity", "float32-fp8")


def quantised(kind: Kind, ops: MoTOps = OPS) -> goldens.Plan:
    return dataclasses.replace(plan("reference" if ops is OPS else "other", ops), quantise=kind)


def check(folder: Path, judged: goldens.Plan) -> list[Golden]:
    return list(goldens.check([read_case(folder)], judged, folder.parents[1] / "out"))


def limits_of(**drift: dict[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    named = {name.replace("_", "-"): limits for name, limits in drift.items()}
    return {"parity": {"float32": EXACT, **named}, "drift": {"float32": EXACT, **named}}


def test_limits_of_a_dtype_do_not_judge_its_quantised_layers(approved: Path) -> None:
    (record,) = check(approved, quantised("fp8"))
    assert (record.dtype, record.status, record.limits) == ("float32-fp8", "not-measured", {})


def test_a_kind_is_judged_by_its_own_limits(approved: Path) -> None:
    change(approved, limits=limits_of(float32_fp8=WIDE, float32_int8={"p99_9": 0.0}))
    assert [check(approved, quantised(kind))[0].status for kind in precision.QUANTISED] == ["pass", "regressed"]


def test_quantised_layers_make_another_picture(approved: Path) -> None:
    change(approved, limits=limits_of(float32_int8=WIDE))
    assert not check(approved, quantised("int8"))[0].identical


def test_the_reference_of_parity_is_quantised_too(approved: Path) -> None:
    change(approved, limits=limits_of(float32_fp8=WIDE))
    parity, drift = check(approved, quantised("fp8", dataclasses.replace(OPS, name="other")))
    assert (parity.identical, drift.identical) == (True, False)


def test_the_line_that_judges_again_names_the_kind(approved: Path) -> None:
    (record,) = check(approved, quantised("fp8"))
    assert record.reproduce.endswith("--dtype float32 --quantise fp8")


def test_an_outside_picture_of_quantised_layers_is_not_traced_as_a_dense_one(approved: Path) -> None:
    doubled = dataclasses.replace(OPS, name="doubled", linear=lambda *given: 20 * OPS.linear(*given))
    change(approved, limits=limits_of(float32_int8={"p99_9": 0.5}))
    parity, _ = check(approved, quantised("int8", doubled))
    assert parity.words.startswith("outside: int8 layers are not traced")


def test_cases_without_limits_of_the_kind_are_left_out(approved: Path) -> None:
    other = Path(shutil.copytree(approved, approved.parent / "other"))
    change(other, limits=limits_of(float32_fp8=WIDE))
    chosen = goldens.limited([read_case(approved), read_case(other)], quantised("fp8"))
    assert [case.name for case in chosen] == ["other"]


def test_figures_of_a_kind_are_farther_from_the_golden_than_from_its_reference(approved: Path) -> None:
    task = calibrate.Task(read_case(approved), CPU, torch.float32, 6, [FAULTS["wrong seed"]], quantise="int8")
    found = calibrate.measure(task)
    assert task.dtype_name == "float32-int8"
    assert max(found.good.parity["mean"]) < min(found.good.drift["mean"])


def test_a_fault_that_cannot_be_injected_in_quantised_layers_is_no_fault_seen(approved: Path) -> None:
    def refused(*_: object) -> Setting:
        raise TypeError("int8 weights cannot be shifted")

    broken = dataclasses.replace(FAULTS["wrong seed"], inject=refused)
    task = calibrate.Task(read_case(approved), CPU, torch.float32, 6, [broken], quantise="int8")
    assert calibrate.measure(task).faults.names == []


@pytest.mark.parametrize("kind", precision.QUANTISED)
def test_the_fused_kernels_pass_a_committed_case(kind: Kind, tmp_path: Path) -> None:
    case = read_case(goldens_folder() / "t2i-few-updates")
    judged = dataclasses.replace(plan("fused", mot_impl.OPS), quantise=kind)
    assert [(one.against, one.status) for one in goldens.check([case], judged, tmp_path)] == [
        ("reference", "pass"),
        ("golden", "pass"),
    ]
