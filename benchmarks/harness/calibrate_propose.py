"""New limits from known-good figures: of the stack they were measured on, and of the base; and what they rest on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness import environment, images
from benchmarks.harness.calibrate_files import Figures, Population
from benchmarks.harness.calibrate_limits import Spread, alarms, factor, limits, seen
from benchmarks.harness.golden_approval import AllLimits, LimitsRecord, Overlay, given, limits_sha256
from benchmarks.harness.golden_case import GoldenCase, checkpoint_sha256
from benchmarks.harness.golden_known import base_factor, figures_of, pooled
from benchmarks.harness.golden_limits import KINDS, Kind, Limits
from benchmarks.harness.rates import rate
from benchmarks.harness.records import Rate

ByDtype = Mapping[str, Limits]


@dataclass(frozen=True)
class Rates:
    """What a set of limits does, over the whole set of cases.

    alarms   "parity float32" -> known-good runs outside
    prompts  the same, of prompts with any
    """

    alarms: dict[str, Rate]
    prompts: dict[str, Rate]


@dataclass(frozen=True)
class Change:
    """New limits of one case: of the stack's overlay and of the base. Nothing is written yet.

    detection, detection_before  dtype -> injected faults that the new and the old limits see; `lost`: only the old ones
    pictures                     fingerprints of what drift was measured from
    """

    case: GoldenCase
    overlay: dict[Kind, dict[str, Limits]]
    base: dict[Kind, dict[str, Limits]]
    detection: dict[str, Rate]
    detection_before: dict[str, Rate]
    lost: list[str]
    pictures: set[str]


def fitting(case: GoldenCase, population: Population, dtype: str) -> Figures | None:
    """The figures of this case, if they are of what it asks for today."""
    found = population.cases.get(case.name, {}).get(dtype)
    if found is None or population.definition != images.DEFINITION:
        return None
    held = (found.request_sha256, found.checkpoint_sha256)
    return found if held == (case.request_sha256, checkpoint_sha256(case.checkpoint)) else None


def current(population: Population, cases: Sequence[GoldenCase]) -> Population:
    """Without figures of cases that are gone, or of what a case asks no more: they would set the others' factor."""
    kept: dict[str, dict[str, Figures]] = {}
    for case in cases:
        dtypes = population.cases.get(case.name, {})
        if found := {dtype: figures for dtype, figures in dtypes.items() if fitting(case, population, dtype)}:
            kept[case.name] = found
    return dataclasses.replace(population, cases=kept)


def factors(population: Population, dtypes: Iterable[str]) -> dict[tuple[Kind, str], float]:
    """By what a limit exceeds the reach of its case's runs, per kind and dtype. Raises ValueError without runs."""
    found = {}
    for dtype in dtypes:
        for kind in KINDS:
            by_case = pooled([population], kind, dtype)
            found[kind, dtype] = factor([ratio for own in by_case.values() for one in own for ratio in one.ratios()])
    return found


def rates(populations: Sequence[Population], dtypes: Iterable[str], base: bool = False) -> Rates:
    """False alarms of a stack's own limits, with the measured factor, or of the base's."""
    found: dict[str, tuple[Rate, Rate]] = {}
    for dtype in dtypes:
        for kind in KINDS:
            by_case = pooled(populations, kind, dtype)
            by = base_factor(populations, kind, dtype) if base else None
            found[f"{kind} {dtype}"] = alarms([one for own in by_case.values() for one in own], by)
    return Rates({name: both[0] for name, both in found.items()}, {name: both[1] for name, both in found.items()})


def propose(
    cases: Sequence[GoldenCase], population: Population, others: Sequence[Population], dtypes: Sequence[str]
) -> list[Change]:
    """New limits of the cases that the population has figures of, in these dtypes.

    The base gets the widest reach of the population and the other stacks. Raises ValueError for a case without figures.
    """
    by = factors(population, dtypes)
    changes = []
    for case in cases:
        old = case.overlays.get(population.stack.name)
        overlay = _still_valid(case.on(population.stack), old.limits if old else {})
        base = _still_valid(case, case.limits)
        before, after, lost, pictures = {}, {}, [], set()
        for dtype in dtypes:
            figures = fitting(case, population, dtype)
            if figures is None:
                raise ValueError(
                    f"{case.name} has no known-good runs in {dtype} on {population.stack.name} for what it asks today; "
                    f"type: motbench golden calibrate --case {case.name} --dtype {dtype}"
                )
            pictures.add(figures.picture)
            reached = [figures] + [found for other in others if (found := fitting(case, other, dtype))]
            for kind in KINDS:
                overlay[kind][dtype] = _limits(
                    limits(Spread(figures.prompt, figures.good.of(kind)).reach, by[kind, dtype])
                )
                farthest = [Spread(one.prompt, one.good.of(kind)).reach for one in reached]
                names = dict.fromkeys(name for one in farthest for name in one)
                widest = {name: max(one.get(name, 0.0) for one in farthest) for name in names}
                base[kind][dtype] = _limits(limits(widest, base_factor([population, *others], kind, dtype)))
            old_limits = {kind: case.on(population.stack).limits_of(kind, dtype) for kind in KINDS}
            was = seen(figures.faults, old_limits)
            now = seen(figures.faults, {kind: overlay[kind][dtype].given for kind in KINDS})
            before[dtype], after[dtype] = rate(sum(was), len(was)), rate(sum(now), len(now))
            lost += [name for name, a, b in zip(figures.faults.names, was, now, strict=True) if a and not b]
        changes.append(Change(case, overlay, base, after, before, lost, pictures))
    return changes


def _still_valid(case: GoldenCase, limits: AllLimits) -> dict[Kind, dict[str, Limits]]:
    """Limits of dtypes that are not measured now, unless they were measured for another request."""
    return {
        kind: {dtype: one for dtype, one in limits.get(kind, {}).items() if not case.void(kind, dtype)}
        for kind in KINDS
    }


def _limits(found: Mapping[str, float]) -> Limits:
    return Limits(**found)


def overlay_of(change: Change, population: Population, record: LimitsRecord) -> Overlay:
    """What is written for the stack; its own golden stays."""
    old = change.case.overlays.get(population.stack.name)
    return Overlay(population.stack, change.overlay, record, old.golden if old else None)


@dataclass(frozen=True)
class Signed:
    """Who sets limits, why and at which commit, and who agrees that the pictures are right."""

    name: str
    reason: str
    commit: str
    witness: str


def records_of(
    change: Change, populations: Sequence[Population], signed: Signed, agreement: dict[str, float]
) -> tuple[LimitsRecord, LimitsRecord]:
    """The records of the overlay's limits (of the first population) and of the base's (of all of them)."""
    case, stack = change.case, populations[0].stack.name
    dtypes = sorted({dtype for one in populations for dtype in one.cases.get(case.name, {})})
    old = case.overlays.get(stack)
    own = LimitsRecord(
        set_by=signed.name,
        reason=signed.reason,
        created=environment.now(),
        commit=signed.commit,
        stacks=[stack],
        request_sha256=case.request_sha256,
        checkpoint_sha256=checkpoint_sha256(case.checkpoint),
        definition=images.DEFINITION,
        limits_sha256=limits_sha256(change.overlay),
        figures=_figures(case.name, dtypes, populations[:1]),
        alarms=rates(populations[:1], dtypes).alarms,
        detection=change.detection,
        detection_before=change.detection_before,
        witness=signed.witness,
        agreement=agreement,
        old=given(old.limits) if old else {},
    )
    base = dataclasses.replace(
        own,
        stacks=[one.stack.name for one in populations],
        limits_sha256=limits_sha256(change.base),
        figures=_figures(case.name, dtypes, populations),
        alarms=rates(populations, dtypes, base=True).alarms,
        old=given(case.limits),
    )
    return own, base


def _figures(case: str, dtypes: Sequence[str], populations: Sequence[Population]) -> dict[str, str]:
    found: dict[str, str] = {}
    for dtype in dtypes:
        found |= figures_of(case, dtype, populations)
    return found
