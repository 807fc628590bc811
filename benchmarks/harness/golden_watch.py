"""Watching the gate itself: pictures that it must tell apart, and limits that nothing has come near for long."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import goldens, stack
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.golden_words import same
from benchmarks.harness.goldens import Made, Plan
from benchmarks.harness.records import Control, Golden, GoldenWatch, StaleLimit, Status, read_lines

RUNS, SHARE = 30, 0.25
"""A limit is stale if of this many runs that moved, the 99th percentile used less than this share of it."""


def watch(cases: Sequence[GoldenCase], plan: Plan, runs: Path) -> GoldenWatch:
    """Both negative controls, by the reference on the plan's device, and the stale limits of all runs below `runs`."""
    own = [case.on(stack.here(plan.device)) for case in cases]
    return GoldenWatch([another_golden(own), another_seed(own, plan)], stale(_history(runs)))


def status(found: GoldenWatch) -> Status:
    """A control that passes is a gate that is blind. A stale limit is told, and stops nothing."""
    outside = [control.outside for control in found.controls]
    return "regressed" if False in outside else "not-measured" if None in outside else "pass"


def lines(found: GoldenWatch) -> list[str]:
    """One line per control, and per stale limit."""
    told = {True: "outside, as it must be", False: "NOT told apart", None: "not measured"}
    controls = [f"control: {one.what}: {told[one.outside]} ({one.reason})" for one in found.controls]
    stale_ones = [
        f"stale limit: {one.case} {one.impl} against {one.against} in {one.dtype} on {one.device}: of the last "
        f"{one.runs} runs that moved, 99 % used under {one.p99:.0%} of it; type: motbench golden calibrate "
        f"--case {one.case}"
        for one in found.stale
    ]
    return controls + stale_ones


def another_golden(cases: Sequence[GoldenCase]) -> Control:
    """The goldens of two cases of one size, as if one were made for the other."""
    name, made = "another golden", [(case, _golden(case)) for case in cases]
    for (first, a), (second, b) in itertools.combinations(made, 2):
        if a.picture is not None and b.picture is not None and a.picture.shape == b.picture.shape:
            what = f"the golden of {second.name} in place of {first.name}'s"
            return _control(name, what, first, a, Made(b.picture))
    return Control(name, "one golden in place of another", None, "no two goldens have one size")


def another_seed(cases: Sequence[GoldenCase], plan: Plan) -> Control:
    """The cheapest case made from the next seed."""
    name = "another seed"
    able = [case for case in cases if _golden(case).picture is not None]
    if not able:
        return Control(name, "a picture from another seed", None, "there is no golden")
    case = min(able, key=lambda one: (one.request.task == "img2img", one.request.steps))
    other = dataclasses.replace(case, request=dataclasses.replace(case.request, seed=case.request.seed + 1))
    made = goldens.painter(plan.witness, plan)(other)
    return _control(name, f"{case.name} from seed {other.request.seed}", case, _golden(case), made)


def _golden(case: GoldenCase) -> Made:
    try:
        found = goldens.approved(case)
    except (OSError, ValueError):
        # What is wrong with it is the record of its own case.
        return Made()
    return Made() if found.error else found


def _control(name: str, what: str, case: GoldenCase, expected: Made, made: Made) -> Control:
    limits = case.limits_of("drift", case.request.dtype)
    found = goldens.compare(Made(expected.picture), Made(made.picture, error=made.error), limits)
    if found.comparison is None or found.status == "not-measured":
        return Control(name, what, None, found.reason)
    return Control(name, what, found.status == "regressed", found.reason or "every metric within its limit")


def _history(runs: Path) -> Iterable[Golden]:
    """Every judged picture of every run, the oldest first."""
    for folder in sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else ():
        yield from read_lines(folder / "golden.jsonl", Golden)[0]


def stale(history: Iterable[Golden]) -> list[StaleLimit]:
    """Limits whose last RUNS pictures, of those that moved at all, stayed under SHARE of them.

    A picture that is identical says nothing of what a limit is for.
    """
    series: dict[tuple[str, str, str, str, str], list[float]] = {}
    for one in history:
        moved = not same(one.identical, one.latents)
        if moved and one.status in ("pass", "regressed") and one.score is not None and math.isfinite(one.score):
            series.setdefault((one.case, one.impl, one.against, one.device, one.dtype), []).append(one.score)
    found = []
    for key, scores in series.items():
        last = scores[-RUNS:]
        p99 = float(np.quantile(last, 0.99))
        if len(last) == RUNS and p99 < SHARE:
            found.append(StaleLimit(*key, runs=RUNS, p99=p99, largest=max(last)))
    return found
