"""What the main job traces: a few of the pictures that left their limits, or else one that did not, for its curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.goldens import Plan
from benchmarks.harness.impls import REFERENCE, said
from benchmarks.harness.records import Drift, DriftStep, Golden
from benchmarks.harness.trace import Subject, Trace, reproduce, trace
from benchmarks.harness.trace_runs import Bench

MOST = 2
"""Traces of one implementation and dtype: one costs as much as some thirty pictures of the reference."""
RUNS = 8
OUTSIDE = 12
"""Tensors over their limit that a record names."""


@dataclass
class Tracer:
    """Traces of one plan as its pictures are judged. drifts: what was found so far."""

    plan: Plan
    cases: Sequence[GoldenCase]
    drifts: list[Drift] = field(default_factory=list)
    passed: list[Golden] = field(default_factory=list)

    def explained(self, result: Golden) -> Golden:
        """The record of a judged picture; of one that differs from the reference, with the words of its trace."""
        if result.against != "reference" or not result.pictures or result.task == "understand":
            return result
        if result.status != "regressed":
            self.passed.append(result)
            return result
        if len(self.drifts) >= MOST:
            return result
        found = self._trace(result.case)
        self.drifts.append(found)
        begins = found.verdict == "outside"
        return dataclasses.replace(result, words=found.sentence) if begins else result

    def finished(self) -> Iterator[Drift]:
        """Every trace; where nothing left its limits, that of the picture that was made fastest."""
        if not self.drifts and self.passed:
            shortest = min(self.passed, key=lambda result: result.seconds)
            self.drifts.append(self._trace(shortest.case))
        yield from self.drifts

    def _trace(self, name: str) -> Drift:
        case = next(case for case in self.cases if case.name == name)
        bench = Bench(case, self.plan.device, self.plan.dtype)
        impl, witness = Subject(self.plan.impl, self.plan.ops), Subject(REFERENCE, self.plan.witness)
        try:
            return drift(trace(bench, impl, witness, RUNS))
        except Exception as error:
            # The pictures are judged already: a trace that breaks must not cost them their records.
            return _broken(bench, impl, witness, said(error))


def _broken(bench: Bench, impl: Subject, witness: Subject, why: str) -> Drift:
    dtype = str(bench.dtype).removeprefix("torch.")
    return Drift(
        case=bench.case.name,
        impl=impl.name,
        against=witness.name,
        device=bench.device.type,
        dtype=dtype,
        truth="none",
        verdict="not measured",
        sentence=f"not measured: {why}",
        reproduce=reproduce(bench, impl, witness, RUNS),
        steps=[],
        branches={},
        between=[],
        outside=[],
    )


def drift(found: Trace) -> Drift:
    """A trace as a record."""
    steps = [
        DriftStep(one.step, one.local_v, one.limit_local_v, one.free_x, one.limit_free_x, one.gain)
        for one in found.steps["impl"]
    ]
    names = dict.fromkeys(name for one in found.steps["impl"] for name in one.branches)
    return Drift(
        case=found.case,
        impl=found.impl,
        against=found.against,
        device=found.device,
        dtype=found.dtype,
        truth=found.truth,
        verdict=found.verdict,
        sentence=found.sentence,
        reproduce=found.reproduce,
        steps=steps,
        branches={name: [one.branches.get(name, float("nan")) for one in found.steps["impl"]] for name in names},
        between=found.between,
        outside=[f"{site.where} ({site.figures})" for site in found.sites["impl"] if not site.ok][:OUTSIDE],
    )
