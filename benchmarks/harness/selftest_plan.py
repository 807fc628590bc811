"""Which runs a self-test makes: every fault on every case in the full form, each once in the reduced one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.fault import Fault
from benchmarks.harness.golden_case import GoldenCase

REQUESTS = 3
"""Requests per case that good runs are made of: the case's own, and two with another prompt and seed."""


LARGE = 1024
"""Side of a picture whose size nothing says before it is made."""


@dataclass(frozen=True)
class Task:
    """What is run on one case's bench: these faults, `draws` times each, and `good` draws of every good family.

    request  0 is the case's own; others have another prompt and seed, and no faults
    ops      whether op parity judges the good runs here: it knows no case, and one verdict on each draw is enough
    """

    case: str
    request: int
    faults: tuple[str, ...]
    draws: int
    good: int
    ops: bool = False


def full(cases: Sequence[GoldenCase], faults: Sequence[Fault], draws: int, good_runs: int, families: int) -> list[Task]:
    """Every fault on every case that can have it, and at least `good_runs` good runs over all cases and requests."""
    good = math.ceil(good_runs / (len(cases) * REQUESTS * families))
    tasks = [Task(case.name, 0, _of(faults, case, "pipeline"), draws, 0) for case in cases]
    for number in range(REQUESTS if good else 1):
        for case in cases:
            own = () if number else _of(faults, case, "implementation")
            tasks.append(Task(case.name, number, own, draws, good, case is cases[0]))
    return [task for task in tasks if task.faults or task.good]


def _of(faults: Sequence[Fault], case: GoldenCase, part: str) -> tuple[str, ...]:
    """Those that the case can have. The pipeline's need no trace, whose limits are most of the work."""
    return tuple(fault.name for fault in faults if fault.part == part and fault.fits(case))


def reduced(cases: Sequence[GoldenCase], faults: Sequence[Fault], draws: int, good_draws: int) -> list[Task]:
    """Every fault on the cheapest case that can have it, and some good runs of the first of those cases."""
    chosen: dict[str, list[str]] = {}
    for fault in faults:
        case = next((case for case in sorted(cases, key=cost) if fault.fits(case)), None)
        if case is not None:
            chosen.setdefault(case.name, []).append(fault.name)
    first = next(iter(chosen), "")
    good = {first: good_draws}
    return [Task(name, 0, tuple(own), draws, good.get(name, 0), name == first) for name, own in chosen.items()]


def cost(case: GoldenCase) -> tuple[int, str]:
    """What a run of the case takes, in updates times pixels; equals are told apart by name."""
    ask = case.request
    height, width = ask.height or LARGE, ask.width or LARGE
    if not ask.height and case.approval is not None:
        height, width = (int(side) for side in case.approval.rgb.split("x")[:2])
    return height * width * (ask.steps - 1), case.name
