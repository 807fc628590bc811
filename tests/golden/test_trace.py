"""A trace names where an injected fault begins: step, layer, op, expert and branch."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mot_impl
import reference_impl
from benchmarks.harness import images
from benchmarks.harness.environment import repository_root
from benchmarks.harness.golden_case import GOLDENS, read_case, read_cases
from benchmarks.harness.known_good import libraries, reordered
from benchmarks.harness.storing import storing
from benchmarks.harness.trace import Subject, Trace, known_good, trace
from benchmarks.harness.trace_errors import Known, StepError, distances, site_distances, step_figures
from benchmarks.harness.trace_plot import png
from benchmarks.harness.trace_runs import Bench, within
from reference_impl.contract import IMAGE, TEXT, Experts, MoTOps, QKNorm, Rotary, Route
from tests.golden.conftest import change

REFERENCE = reference_impl.OPS
LAYERS = 2
CASES = sorted(path.parent.name for path in (repository_root() / GOLDENS).glob("*/case.json"))
GUIDANCE = {"text_scale": 4.0, "image_scale": 1.5, "interval": [0.0, 1.0], "renorm_type": "global", "renorm_min": 0.0}
QKV, O = (128, 64), (64, 64)  # noqa: E741
"""(N, K) of the tiny checkpoint's layers: how a broken op tells them apart."""

TOKENS, MARKERS = slice(9), slice(-2, None)
"""Rows of the image expert, in a picture of 48 x 48, and of the text expert behind them."""


@dataclasses.dataclass(frozen=True)
class Passes:
    """When attention is called in a run: by layer in passes before the updates, by layer and branch in every update."""

    before: int
    branches: int
    updates: int

    @property
    def calls(self) -> int:
        return LAYERS * (self.before + self.updates * self.branches)

    def early(self, number: int, layer: int) -> int:
        return number * LAYERS + layer

    def update(self, step: int, layer: int, branch: int) -> int:
        return LAYERS * (self.before + step * self.branches) + layer * self.branches + branch


T2I = Passes(before=1, branches=2, updates=3)
"""The text; then the conditional branch and the one without text."""

AN_EDIT = Passes(before=4, branches=3, updates=2)
"""Latent, vit, text, and the text of the branch without image; then that branch too."""


def broken(**ops: Callable[..., Any]) -> MoTOps:
    return dataclasses.replace(REFERENCE, name="broken", **ops)


Fault = Callable[[Tensor, Experts, Route], Tensor]


def at_call(size: tuple[int, int], number: int, period: int, fault: Fault) -> MoTOps:
    """`fault` instead of `linear` for weights of this size, at this of every `period` calls."""
    calls = itertools.count()

    def linear(x: Tensor, experts: Experts, route: Route) -> Tensor:
        if (experts.n_out, experts.n_in) == size and next(calls) % period == number:
            return fault(x, experts, route)
        return REFERENCE.linear(x, experts, route)

    return broken(linear=linear)


def in_layer(size: tuple[int, int], layer: int, fault: Fault) -> MoTOps:
    return at_call(size, layer, LAYERS, fault)


def slipped(call: int, passes: Passes, rows: slice) -> MoTOps:
    """These rows a thousandth too large at one call of attention, which sees one branch at a time."""
    calls = itertools.count()

    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        y = REFERENCE.attention(q, k, v, causal)
        if next(calls) % passes.calls == call:
            y[rows] *= 1.001
        return y

    return broken(attention=attention)


def one_token_astray(x: Tensor, experts: Experts, route: Route) -> Tensor:
    return REFERENCE.linear(x, experts, Route(route.rows, min(route.n_text + 1, route.n_rows)))


def without_bias(expert: int) -> Fault:
    def fault(x: Tensor, experts: Experts, route: Route) -> Tensor:
        if experts.bias is None:
            return REFERENCE.linear(x, experts, route)
        bias = experts.bias.clone()
        bias[expert] = 0
        return REFERENCE.linear(x, Experts(experts.weight, bias), route)

    return fault


def stale(x: Tensor, experts: Experts, route: Route) -> Tensor:
    weight = experts.weight.clone()
    weight[TEXT] *= 0.999
    return REFERENCE.linear(x, Experts(weight, experts.bias), route)


def dropped_columns(x: Tensor, experts: Experts, route: Route) -> Tensor:
    return REFERENCE.linear(x[:, :-16], Experts(experts.weight[:, :, :-16], experts.bias), route)


def nan(x: Tensor, experts: Experts, route: Route) -> Tensor:
    return REFERENCE.linear(x, experts, route) * torch.nan


def rotated_by_one(qkv: Tensor, norm: QKNorm, table: Rotary, route: Route) -> tuple[Tensor, Tensor, Tensor]:
    one = Rotary.at(torch.ones(1), norm.head_dim, 1e6)
    cos, sin = table.cos * one.cos - table.sin * one.sin, table.sin * one.cos + table.cos * one.sin
    return REFERENCE.qk_norm_rotary(qkv, norm, Rotary(cos, sin), route)


def swapped(x: Tensor, gate_up: Experts, down: Experts, route: Route) -> Tensor:
    """Gate and up, of the image expert only."""
    weight = gate_up.weight.clone()
    weight[IMAGE] = weight[IMAGE].roll(weight.shape[1] // 2, 0)
    return REFERENCE.gated_mlp(x, Experts(weight, gate_up.bias), down, route)


def acausal(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return REFERENCE.attention(q, k, v, False)


LAX_EPS = broken(rms_norm=lambda x, gain, route, eps: REFERENCE.rms_norm(x, gain, route, 10 * eps))
FAULTS: dict[str, tuple[MoTOps, str]] = {
    "one token to the wrong expert in layer 1": (
        in_layer(QKV, 1, one_token_astray),
        "step 0, layer 1, image expert, qkv, conditional branch",
    ),
    "dropped bias of the text expert": (
        in_layer(QKV, 0, without_bias(TEXT)),
        "the text pass before step 0, layer 0, text expert, qkv, conditional branch",
    ),
    "dropped bias of the image expert in layer 1": (
        in_layer(QKV, 1, without_bias(IMAGE)),
        "step 0, layer 1, image expert, qkv, conditional branch",
    ),
    "rotary position off by one": (
        broken(qk_norm_rotary=storing(rotated_by_one)),
        "the text pass before step 0, layer 0, text expert, q, conditional branch",
    ),
    "eps 1e-5 for 1e-6": (
        LAX_EPS,
        "the text pass before step 0, layer 0, text expert, input_norm, conditional branch",
    ),
    "stale text expert in layer 1": (
        in_layer(O, 1, stale),
        "the text pass before step 0, layer 1, text expert, o, conditional branch",
    ),
    "last 16 columns of K dropped in layer 1": (
        in_layer(O, 1, dropped_columns),
        "the text pass before step 0, layer 1, text expert, o, conditional branch",
    ),
    "gate and up swapped in the image expert": (
        broken(gated_mlp=swapped),
        "step 0, layer 0, image expert, mlp, conditional branch",
    ),
    "text attends to what follows": (
        broken(attention=acausal),
        "the text pass before step 0, layer 0, text expert, attention, conditional branch",
    ),
    "image expert slips in step 2 without text": (
        slipped(T2I.update(2, 1, 1), T2I, TOKENS),
        "step 2, layer 1, image expert, attention, text guidance branch",
    ),
    "text expert slips in step 1": (
        slipped(T2I.update(1, 0, 0), T2I, MARKERS),
        "step 1, layer 0, text expert, attention, conditional branch",
    ),
    "NaN in layer 1": (
        in_layer(QKV, 1, nan),
        "the text pass before step 0, layer 1, text expert, qkv, conditional branch",
    ),
}

LOST_IN_HALF = {
    "eps 1e-5 for 1e-6",
    "stale text expert in layer 1",
    "image expert slips in step 2 without text",
    "text expert slips in step 1",
}
"""A thousandth or less: most such results round to the same bfloat16 value as without the fault."""


@pytest.fixture
def bench(unapproved: Path) -> Bench:
    """Three guided updates of nine image tokens."""
    change(unapproved, steps=4, guidance={**GUIDANCE, "image_scale": 1.0}, height=48, width=48)
    return Bench(read_case(unapproved), torch.device("cpu"), torch.float32)


def traced(bench: Bench, ops: MoTOps, against: MoTOps = REFERENCE) -> Trace:
    return trace(bench, Subject("mine", ops), Subject("beside", against), runs=4)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_where_it_begins(bench: Bench, fault: str) -> None:
    ops, where = FAULTS[fault]
    found = traced(bench, ops)
    assert found.verdict == "outside"
    assert found.sentence.startswith(f"outside: first at {where} (relative error ")


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (AN_EDIT.early(0, 0), "the latent pass before step 0, layer 0, text expert, attention, conditional branch"),
        (AN_EDIT.early(3, 0), "the text pass before step 0, layer 0, text expert, attention, image guidance branch"),
        (AN_EDIT.update(0, 0, 2), "step 0, layer 0, text expert, attention, image guidance branch"),
        (AN_EDIT.update(1, 0, 1), "step 1, layer 0, text expert, attention, text guidance branch"),
    ],
    ids=["latent", "text-without-image", "without-image", "without-text"],
)
def test_a_fault_of_an_edit_is_named_in_its_branch(edit: Path, call: int, where: str) -> None:
    change(edit, steps=3, guidance=GUIDANCE)
    bench = Bench(read_case(edit), torch.device("cpu"), torch.float32)
    found = traced(bench, slipped(call, AN_EDIT, MARKERS))
    assert found.sentence.startswith(f"outside: first at {where} (relative error ")


def test_the_reference_beside_itself_is_identical(bench: Bench) -> None:
    found = traced(bench, REFERENCE)
    assert (found.verdict, found.sentence.split(":")[0]) == ("identical", "identical")
    assert found.between == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("ops", [mot_impl.OPS, reordered(99)], ids=lambda ops: ops.name)
def test_another_order_of_sums_is_compatible(bench: Bench, ops: MoTOps) -> None:
    found = traced(bench, ops)
    assert found.verdict == "compatible with reordering"
    known = 1 + 4 + len(libraries(bench.device))
    assert found.sentence == f"compatible with reordering (p = {found.p:.2g}, {known} known-good runs)"
    assert all(0 < difference < 1e-6 for difference in found.between)


def test_half_precision_is_judged_against_float32(bench: Bench) -> None:
    found = traced(dataclasses.replace(bench, dtype=torch.bfloat16), reordered(99))
    assert (found.truth, found.verdict) == ("reference in float32", "compatible with reordering")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in LOST_IN_HALF])
def test_a_fault_in_half_precision_is_named_where_it_begins(bench: Bench, fault: str) -> None:
    ops, where = FAULTS[fault]
    found = traced(dataclasses.replace(bench, dtype=torch.bfloat16), ops)
    assert found.sentence.startswith(f"outside: first at {where} (relative error ")


def test_a_fault_of_the_other_side_is_told(bench: Bench) -> None:
    found = traced(bench, reordered(99), in_layer(QKV, 1, one_token_astray))
    assert found.verdict == "compatible with reordering"
    assert found.sentence.endswith(
        "beside it is outside too, first at step 0, layer 1, image expert, qkv, conditional branch"
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [(ValueError("no tile for this shape"), "no tile for this shape"), (RuntimeError(), "RuntimeError")],
    ids=["refusal", "anything"],
)
def test_an_implementation_that_raises_is_outside(bench: Bench, error: Exception, says: str) -> None:
    def refuse(*_: Any) -> Tensor:
        raise error

    found = traced(bench, broken(attention=refuse))
    assert (found.verdict, found.sentence) == ("outside", f"outside: it makes no picture: {says}")
    assert png(found)
    beside = traced(bench, REFERENCE, broken(attention=refuse))
    assert beside.sentence.endswith(f"the implementation beside it makes no picture: {says}")


def test_a_reference_that_makes_no_picture_is_not_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.trace.reordered", lambda seed: in_layer(QKV, 1, nan))
    found = traced(bench, REFERENCE)
    assert found.verdict == "not measured"
    assert found.sentence.startswith("not measured: the reference itself makes no picture: ")


def test_an_error_between_the_ops_is_named_by_its_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only the free-running latents show."""
    honest = Known.limited

    def strict(self: Known, steps: list[StepError]) -> list[StepError]:
        return [dataclasses.replace(e, limit_free_x=0.0) if e.step == 2 else e for e in honest(self, steps)]

    monkeypatch.setattr(Known, "limited", strict)
    found = traced(bench, reordered(99))
    assert found.detailed == 2
    assert found.sentence.startswith("outside: first at step 2, free-running latent (relative error ")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_other_order_of_sums_is_outside(name: str) -> None:
    """38 held-out orders on each case: 304 runs without an alarm would put the rate under 1 % at 95 % confidence."""
    (case,) = read_cases(repository_root() / GOLDENS, [name])
    bench = Bench(case, torch.device("cpu"), torch.float32)
    wanted = within(0)
    truth = bench.run(bench.load(torch.float64), lambda: REFERENCE, None, wanted)
    assert truth.free is not None
    pipeline = bench.load(torch.float32)
    known = known_good(bench, pipeline, truth, wanted, runs=8)
    outside = []
    for seed in range(1000, 1038):
        run = bench.run(pipeline, lambda seed=seed: reordered(seed), truth.free.x_t, wanted)  # type: ignore[misc]
        sites = known.judged(site_distances(truth, run))
        updates = known.limited(step_figures(case, truth, run))
        outside += [(seed, site.where) for site in sites if not site.ok]
        outside += [(seed, update.where) for update in updates if not update.ok]
    assert outside == []


def test_local_errors_stay_where_the_fault_is_and_free_running_ones_go_on(bench: Bench) -> None:
    steps = traced(bench, slipped(T2I.update(1, 1, 0), T2I, TOKENS)).steps["impl"]
    assert [step.local_v > step.limit_local_v for step in steps] == [False, True, False]
    assert [step.free_x > step.limit_free_x for step in steps] == [False, True, True]
    assert steps[2].gain == steps[2].free_x / steps[1].free_x
    assert [step.branches["main"] > 100 * step.branches["no_text"] for step in steps] == [False, True, False]


def test_distance_of_a_row_is_its_own() -> None:
    expected = torch.ones(100, 4)
    actual = expected.clone()
    actual[7] = 2
    assert distances(expected, actual) == pytest.approx((0.1, 1.0))


def test_the_curves_are_a_picture(bench: Bench, tmp_path: Path) -> None:
    for number, ops in enumerate((reordered(99), in_layer(QKV, 1, nan))):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(traced(bench, ops)))
        assert path.read_bytes()[:8] == images.SIGNATURE


THEIRS = """
import dataclasses, reference_impl
from reference_impl.contract import Experts

def linear(x, experts, route):
    return reference_impl.OPS.linear(x, Experts(experts.weight), route)

OPS = dataclasses.replace(reference_impl.OPS, name="theirs", linear=linear)
"""


@pytest.mark.parametrize(
    ("impl", "code", "says"),
    [
        ("reference", 0, "t2i-few-updates reference against reference: identical"),
        (
            "theirs:OPS",
            1,
            "outside: first at the text pass before step 0, layer 0, text expert, qkv, conditional branch",
        ),
    ],
)
def test_the_command_leaves_with_the_verdict(tmp_path: Path, impl: str, code: int, says: str) -> None:
    (tmp_path / "theirs.py").write_text(THEIRS)
    words = ["trace", "t2i-few-updates", "--impl", impl, "--runs", "1", "--out", str(tmp_path), "--json", "t.json"]
    words[-1] = str(tmp_path / "t.json")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "motbench", *words],
        env={**os.environ, "PYTHONPATH": f"{repository_root()}:{tmp_path}", "OMP_NUM_THREADS": "1"},
        cwd=repository_root(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert says in done.stdout
    assert len(list(tmp_path.glob("*.png"))) == 1
    facts = json.loads((tmp_path / "t.json").read_text())
    assert facts["sentence"] in done.stdout
    assert len(facts["steps"]["impl"]) == 4
