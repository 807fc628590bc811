"""The gate's own test: what each tier sees of injected faults, and of held-out runs that are right by construction.

A run is one fault at one place, or one good variant, on one golden case. Every tier judges it as it judges any other:
op parity by reference_impl/tolerance.py, the trace by limits that are measured on this case, the picture by the limits
of its case.json. Good runs are also made of a prompt that is no case's (other_prompts.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

import reference_impl
from bagel.pipeline import BagelPipeline
from benchmarks.harness import gate, goldens, public_gates
from benchmarks.harness.fault import Fault, Place, Setting
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.golden_limits import judge
from benchmarks.harness.goldens import Finding, Made, Plan
from benchmarks.harness.good_runs import held_out
from benchmarks.harness.impls import said
from benchmarks.harness.inputs import CASES, WORK, Case, Work, arguments
from benchmarks.harness.trace import known_good
from benchmarks.harness.trace_errors import Known, site_distances, step_figures
from benchmarks.harness.trace_runs import Bench, Run, Wanted, within
from reference_impl.contract import MoTOps

TRACE_RUNS = 8
"""Reordered runs that the trace's limits are measured on, as `motbench trace` does unless told otherwise."""

WANTED: Wanted = within(0)


@dataclass(frozen=True)
class Outcome:
    """What was seen of one run.

    name     of the fault or the good family; draw tells its places and variants apart
    tiers    tier -> whether it saw anything; a tier that could not judge is not there. In half precision "picture" is
             what float32 or half precision saw, as every night judges both, and "bfloat16 picture" the latter alone
    metrics  of the picture in the plan's dtype, each by its own limit alone
    gates    other projects' rules for the same pictures
    differs  False for a good run that is the reference bit for bit: it tests no limit
    """

    name: str
    case: str
    draw: int
    tiers: dict[str, bool]
    metrics: dict[str, bool]
    gates: dict[str, bool]
    differs: bool = True


@dataclass(frozen=True)
class Easel:
    """A case in one dtype: the pipeline with the judged ops, and the pictures to expect with the limits they may miss.

    reference  what the reference makes now; golden: what was approved
    """

    pipeline: BagelPipeline
    reference: Made
    golden: Made
    parity: Mapping[str, float] | None
    drift: Mapping[str, float] | None

    @classmethod
    def of(cls, plain: BagelPipeline, case: GoldenCase, ops: MoTOps, dtype: str) -> Easel:
        """plain: the pipeline with the reference's ops. Raises OSError or ValueError for what cannot be read."""
        return cls(
            pipeline=with_ops(plain, ops),
            reference=made(Setting(plain, case.image_request())),
            golden=goldens.approved(case) if case.approval else Made(error="nobody has approved a picture"),
            parity=None if case.void("parity", dtype) else case.limits_of("parity", dtype),
            drift=None if case.void("drift", dtype) else case.limits_of("drift", dtype),
        )

    def sees(self, picture: Made, parity: bool) -> tuple[bool | None, dict[str, bool], dict[str, bool]]:
        """Whether the picture is outside, None if nothing judged it; and what each metric and each gate says alone.

        parity: judged beside the reference's picture too, which a fault of the pipeline is in as well.
        """
        pairs = [(self.golden, self.drift or {}), *([(self.reference, self.parity or {})] if parity else [])]
        judged = [(goldens.compare(expected, picture, limits or None), limits) for expected, limits in pairs]
        judged = [(found, limits) for found, limits in judged if found.status != "not-measured"]
        metrics: dict[str, bool] = {}
        gates: dict[str, bool] = {}
        for found, limits in judged:
            for kind, alone in ((metrics, _outside(found, limits)), (gates, _public(found))):
                kind.update({name: kind.get(name, False) or seen for name, seen in alone.items()})
        return any(found.status == "regressed" for found, _ in judged) if judged else None, metrics, gates


@dataclass(frozen=True)
class Stand:
    """One case, made ready to judge many runs.

    exact  in float32, for the trace and the picture; own: in the plan's dtype
    """

    plan: Plan
    case: GoldenCase
    bench: Bench
    exact: Easel
    own: Easel

    @classmethod
    def of(cls, case: GoldenCase, plan: Plan) -> Stand:
        """The case is judged as it is on this machine's stack. Raises OSError or ValueError if it cannot be read."""
        bench = Bench(case, plan.device, torch.float32)
        exact = Easel.of(bench.load(torch.float32), case, plan.ops, "float32")
        if plan.dtype == torch.float32:
            return cls(plan, case, bench, exact, exact)
        return cls(plan, case, bench, exact, Easel.of(bench.load(plan.dtype), case, plan.ops, plan.dtype_name))

    @functools.cached_property
    def ruler(self) -> tuple[Run, Known]:
        """The truth of the trace, and what known-good runs allow: a dozen runs, and only a trace needs them.

        Raises ValueError if the reference itself makes no picture.
        """
        truth = self.bench.run(self.bench.load(torch.float64), lambda: reference_impl.OPS, None, WANTED)
        known = known_good(self.bench, self.bench.load(torch.float32), truth, WANTED, TRACE_RUNS)
        if truth.error or known.error:
            raise ValueError(f"{self.case.name}: the reference itself makes no picture: {truth.error or known.error}")
        return truth, known

    def traced(self, pipeline: BagelPipeline, ops: Callable[[], MoTOps]) -> tuple[bool, Made]:
        """Whether any tensor or update is over its limit, or there is no picture; and the picture, running freely."""
        truth, known = self.ruler
        run = self.bench.run(pipeline, ops, truth.free.x_t if truth.free else None, WANTED)
        sites, updates = known.judged(site_distances(truth, run)), known.limited(step_figures(self.case, truth, run))
        seen = bool(run.error) or not (all(site.ok for site in sites) and all(update.ok for update in updates))
        return seen, Made(error=run.error) if run.free is None else goldens.made_of(run.free)

    def outcome(self, name: str, draw: int, tiers: dict[str, bool], pictures: Pictures, parity: bool) -> Outcome:
        """What was seen of a run, of which `tiers` holds what others than the picture saw."""
        seen, metrics, gates = self.exact.sees(pictures.exact, parity)
        if self.own is not self.exact:
            half, metrics, gates = self.own.sees(pictures.own, parity)
            if half is not None:
                tiers[f"{self.plan.dtype_name} picture"] = half
                seen = seen or half
        if seen is not None:
            tiers["picture"] = seen
        return Outcome(name, self.case.name, draw, tiers, metrics, gates)


@dataclass(frozen=True)
class Pictures:
    """Of one run: in float32, and in the plan's dtype."""

    exact: Made
    own: Made


def faulty(stand: Stand, fault: Fault, draw: int) -> Outcome:
    """One fault on one case, at the place that the fault, the case and the draw name."""
    place, request = Place(f"{fault.name}/{stand.case.name}/{draw}"), stand.case.image_request()
    exact = fault.inject(Setting(stand.exact.pipeline, request), place)
    tiers = {"op parity": False, "fp32 trace": False}
    parity = fault.part == "implementation"
    if parity:
        tiers["op parity"] = op_parity(stand.plan, exact.ops)
        tiers["fp32 trace"], picture = stand.traced(exact.pipeline, lambda: exact.ops)
    else:
        picture = made(exact)
    half = picture
    if stand.own is not stand.exact:
        half = made(fault.inject(Setting(stand.own.pipeline, request), place))
    return stand.outcome(fault.name, draw, tiers, Pictures(picture, half), parity)


def good(stand: Stand, draw: int, ops: bool) -> Iterator[Outcome]:
    """One held-out variant of every family on one case; ops: judged by op parity too."""
    plan, request = stand.plan, stand.case.image_request()
    exacts, owns = (held_out(draw, plan.device, dtype) for dtype in (torch.float32, plan.dtype))
    for exact, own in zip(exacts, owns, strict=True):
        with exact.settings():
            seen, picture = stand.traced(stand.exact.pipeline, exact.ops)
            tiers = {"fp32 trace": seen}
            # An op's result that is moved on purpose is off by what no op may be; it stands for whole models.
            if ops and exact.family != "moved":
                tiers["op parity"] = op_parity(plan, own.ops())
        half = picture
        if stand.own is not stand.exact:
            with own.settings():
                half = made(Setting(with_ops(stand.own.pipeline, own.ops()), request))
        found = stand.outcome(own.family, draw, tiers, Pictures(picture, half), parity=True)
        same = _same(picture, stand.exact.reference) and _same(half, stand.own.reference)
        yield dataclasses.replace(found, differs=not same or any(found.tiers.values()))


def _same(a: Made, b: Made) -> bool:
    """Whether no byte of the picture and no number of the latents differs."""
    if a.picture is None or b.picture is None:
        return False
    pairs = [(a.picture, b.picture), *((a.latents[name], b.latents[name]) for name in a.latents)]
    return all(np.array_equal(one, other) for one, other in pairs)


def op_parity(plan: Plan, ops: MoTOps) -> bool:
    """Whether any op that differs from the plan's is outside on any named input, in the plan's dtype or in float32.

    The ops that are the plan's own are what the parity step has judged.
    """
    changed = [work for work in WORK if getattr(ops, work.op) is not getattr(plan.ops, work.op)]
    dtypes = dict.fromkeys((plan.dtype, torch.float32))
    pairs = ((work, dtype) for dtype in dtypes for work in changed)
    return not all(_agrees(plan, ops, work, case, dtype) for work, dtype in pairs for case in CASES.values())


def _agrees(plan: Plan, ops: MoTOps, work: Work, case: Case, dtype: torch.dtype) -> bool:
    """Whether one op is within its limits on one named input. One that raises is not; a refusal and a full memory are
    no finding about the fault, and are raised on.
    """
    try:
        return gate.compare(ops, work.op, arguments(work, case, dtype, plan.device)).ok
    except (NotImplementedError, torch.OutOfMemoryError):
        raise
    except Exception:
        return False


def with_ops(pipeline: BagelPipeline, ops: MoTOps) -> BagelPipeline:
    """The same pipeline with another implementation."""
    transformer = dataclasses.replace(pipeline.model.transformer, ops=ops)
    return dataclasses.replace(pipeline, model=dataclasses.replace(pipeline.model, transformer=transformer))


def made(setting: Setting) -> Made:
    """Its picture. What an implementation raises instead is a finding about it, as in goldens.painter."""
    try:
        return goldens.made_of(setting.pipeline.generate(setting.request))
    except NotImplementedError:
        raise
    except Exception as error:
        return Made(error=said(error))


def _outside(found: Finding, limits: Mapping[str, float]) -> dict[str, bool]:
    """Metric -> whether it alone fails the picture; where there is none, or one of another size, every one does."""
    if found.comparison is None:
        return dict.fromkeys(limits, True)
    values = found.values
    return {
        name: judge({name: values[name]}, {name: limit}, found.comparison.versions)[0] == "regressed"
        for name, limit in limits.items()
        if name in values
    }


def _public(found: Finding) -> dict[str, bool]:
    a, b = found.expected, found.actual
    if a is None:
        return {}
    rules = public_gates.gates(a.shape[:2], seed=0)
    if b is None or found.comparison is None:
        return dict.fromkeys(rules, True)
    return {name: sees(a, b, found.values) for name, sees in rules.items()}
