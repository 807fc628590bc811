"""Which runs a self-test makes: every fault on every case in the full form, each once in the reduced one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.harness.fault import Fault
from benchmarks.harness.faults import FAULTS
from benchmarks.harness.golden_case import GoldenCase

LARGE = 1024
"""Side of a picture whose size nothing says before it is made."""


@dataclass(frozen=True)
class Task:
    """What is run on one case's bench, in this order: these faults, `draws` times each, then good runs.

    request  0 is the case's own; others have another prompt and seed, and no faults
    good     draws of every good family
    ops      draws of good runs that op parity judges here: it knows no case, and one verdict on each draw is enough
    """

    case: str
    request: int
    faults: tuple[str, ...]
    draws: int
    good: tuple[int, ...]
    ops: tuple[int, ...] = ()

    def places(self) -> list[tuple[Fault, int]]:
        """Fault and draw of every run with a fault. What sits nowhere is run once."""
        chosen = (FAULTS[name] for name in self.faults)
        return [(fault, draw) for fault in chosen for draw in range(self.draws if fault.placed else 1)]

    def runs(self, families: int) -> int:
        """How many runs that are, with so many good families."""
        return len(self.places()) + families * len(self.good)

    def split(self, parts: int) -> list[Task]:
        """The same runs in up to so many tasks, each with a share of the faults and of the good runs."""
        tasks = [
            dataclasses.replace(self, faults=self.faults[part::parts], good=self.good[part::parts])
            for part in range(parts)
        ]
        return [task for task in tasks if task.faults or task.good]


def full(cases: Sequence[GoldenCase], faults: Sequence[Fault], draws: int, good_runs: int, families: int) -> list[Task]:
    """Every fault on every case that can have it, and at least `good_runs` good runs of the cases' own requests.

    Of another prompt of each case one draw of every family follows. Cheap cases are first, so that every fault is
    reached early.
    """
    ordered, count = sorted(cases, key=cost), len(cases)
    good = math.ceil(good_runs / (count * families))
    tasks = [
        Task(one.name, 0, _of(faults, one), draws, tuple(range(good)), tuple(range(number, good, count)))
        for number, one in enumerate(ordered)
    ]
    if good:
        tasks += [Task(one.name, 1, (), draws, (good,)) for one in ordered]
    return [task for task in tasks if task.faults or task.good]


def _of(faults: Sequence[Fault], case: GoldenCase) -> tuple[str, ...]:
    """Those that the case can have. The pipeline's are first: they need no trace, whose limits are most of the work."""
    own = (fault for fault in faults if fault.fits(case))
    return tuple(fault.name for fault in sorted(own, key=lambda fault: fault.part != "pipeline"))


def reduced(cases: Sequence[GoldenCase], faults: Sequence[Fault], draws: int, good_draws: int) -> list[Task]:
    """Every fault on the cheapest case that can have it, and some good runs of the first of those cases."""
    chosen: dict[str, list[Fault]] = {}
    cases = sorted(cases, key=cost)
    for fault in faults:
        case = next((case for case in cases if fault.fits(case)), None)
        if case is not None:
            chosen.setdefault(case.name, []).append(fault)
    first = next(iter(chosen), "")
    good = {first: tuple(range(good_draws))}
    by_name = {case.name: case for case in cases}
    return [
        Task(name, 0, _of(own, by_name[name]), draws, good.get(name, ()), good.get(name, ()))
        for name, own in chosen.items()
    ]


def shared(tasks: Iterable[Task], workers: int) -> list[Task]:
    """The tasks in parts, if there are more workers than cases. What a case needs once is done once in each part."""
    tasks = list(tasks)
    own = sum(task.request == 0 for task in tasks)
    parts = max(workers // own, 1) if own else 1
    return [part for task in tasks for part in (task.split(parts) if task.request == 0 else [task])]


def cost(case: GoldenCase) -> tuple[int, str]:
    """What a run of the case takes, in updates times pixels; equals are told apart by name."""
    ask = case.request
    height, width = ask.height or LARGE, ask.width or LARGE
    if not ask.height and case.approval is not None:
        height, width = (int(side) for side in case.approval.rgb.split("x")[:2])
    return height * width * (ask.steps - 1), case.name
