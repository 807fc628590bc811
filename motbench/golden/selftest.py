"""`motbench golden selftest`: injected faults and held-out good runs, and what the gate says of each."""

from __future__ import annotations

import dataclasses
import math
import time
import typing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import typer

from motbench.exits import Exit
from motbench.golden.common import goldens_folder, plan_of

if typing.TYPE_CHECKING:
    from queue import Queue

    from benchmarks.harness.records import Form, Selftest
    from benchmarks.harness.selftest import Outcome
    from benchmarks.harness.selftest_plan import Task

Opt = typer.Option
EXITS = {"pass": Exit.PASS, "regressed": Exit.REGRESSED}

PAUSE = 5.0
"""Seconds between two records of a test that is running."""


@dataclass(frozen=True)
class Judged:
    """The implementation as it is typed, and where: what a worker needs to make the plan again."""

    impl: str
    device: str
    dtype: str


def selftest(
    fault: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this fault; may be repeated")] = None,
    case: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this case; may be repeated")] = None,
    impl: typing.Annotated[str, Opt(help="what faults are injected into: reference, fused or package.module:OPS")] = (
        "reference"
    ),
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16; half precision judges float32 too")] = (
        "float32"
    ),
    full: typing.Annotated[bool, Opt("--full/--reduced", help="every fault on every case, or each on one")] = True,
    draws: typing.Annotated[int, Opt(min=1, help="places per fault and case")] = 1,
    good: typing.Annotated[
        int | None, Opt(min=0, help="held-out good runs at least; 450 in the full form, one of each family else")
    ] = None,
    jobs: typing.Annotated[int, Opt(min=1, help="processes; more than there are cases share a case's runs")] = 1,
    minutes: typing.Annotated[
        float | None, Opt(min=0, help="begin no run after so long; what is left out is not measured")
    ] = None,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write the record as JSON")] = None,
    out: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write the tables as Markdown")] = None,
) -> None:
    """Inject every fault on every case, and print what each tier sees of it, and what it says of good runs.

    Exit code 0 if every fault is seen by its tier in 95 % of its runs and at most 1 % of the good runs alarm, 1 if not,
    4 if that was not measured.
    """
    from benchmarks.harness import records
    from benchmarks.harness.faults import chosen
    from benchmarks.harness.selftest_table import markdown

    chosen(fault)  # an unknown name is refused before anything is loaded
    found = None
    pace = Pace(jobs, math.inf if minutes is None else time.monotonic() + 60 * minutes)
    for found in growing(Judged(impl, device, dtype), Chosen(case, fault, full, draws, good), pace):
        if json is not None:
            records.write_json(json, found)
    if found is None:
        raise ValueError("nothing is asked: no case can have these faults; name others, or --good runs")
    text = markdown(found)
    print(f"\n{text}")
    if out is not None:
        records.write_atomic(out, text.encode())
    print(sentence(found))
    raise typer.Exit(EXITS.get(found.status, Exit.NOT_MEASURED))


@dataclass(frozen=True)
class Chosen:
    """What is tested; nothing named means everything."""

    cases: Sequence[str] | None = None
    faults: Sequence[str] | None = None
    full: bool = True
    draws: int = 1
    good: int | None = None

    @property
    def form(self) -> Form:
        """What of all there is that asks for; `--reduced` runs each fault on one case, whatever is named."""
        if not self.full:
            return "reduced"
        return "some cases" if self.cases else "some faults" if self.faults else "full"


@dataclass(frozen=True)
class Pace:
    """In how many processes, and until when (time.monotonic, the same in all of them) runs are begun."""

    jobs: int = 1
    until: float = math.inf


def growing(judged: Judged, what: Chosen, pace: Pace = Pace()) -> Iterator[Selftest]:
    """The record so far, every few seconds, with a line about it; the last one is whole.

    Raises OSError or ValueError for a case that cannot be read, and whatever a run raises, after the last record.
    """
    from benchmarks.harness import goldens, selftest_plan
    from benchmarks.harness.faults import chosen
    from benchmarks.harness.golden_case import read_cases
    from benchmarks.harness.good_runs import held_out
    from benchmarks.harness.selftest_table import GOOD_MADE, Asked, record

    started = told = time.monotonic()
    plan = plan_of(judged.impl, judged.device, judged.dtype)
    cases = read_cases(goldens_folder(), what.cases)
    cases = cases if what.cases else goldens.selected(cases, plan.impl, plan.device)
    faults, families = chosen(what.faults), len(held_out(0, plan.device, plan.dtype))
    wanted = what.good if what.good is not None else 0 if what.faults else GOOD_MADE if what.full else 1
    if what.full:
        tasks = selftest_plan.full(cases, faults, what.draws, wanted, families)
    else:
        tasks = selftest_plan.reduced(cases, faults, what.draws, int(wanted > 0))
    if not tasks:
        return
    used = [one.name for one in cases if any(task.case == one.name for task in tasks)]
    words = [] if what.full else ["--reduced"]
    words += [word for name in what.cases or () for word in ("--case", name)]
    words += [word for name in what.faults or () for word in ("--fault", name)]
    count = sum(task.runs(families) for task in tasks)
    asked = Asked(plan, used, faults, what.form, tuple(words), count)
    outcomes: list[Outcome] = []
    failures: list[BaseException] = []
    for some in _made(judged, selftest_plan.shared(tasks, pace.jobs), pace, failures):
        outcomes += some
        if time.monotonic() - told >= PAUSE:
            told = time.monotonic()
            print(f"  {len(outcomes):4} of {count} runs, {told - started:.0f} s", flush=True)
            yield record(asked, outcomes, told - started)
    yield record(asked, outcomes, time.monotonic() - started)
    if failures:
        raise failures[0]


def sentence(found: Selftest) -> str:
    """The outcome in one line."""
    runs = sum(one.seen.runs for one in found.faults)
    seen = sum(one.seen.seen for one in found.faults)
    text = f"{found.status}: {seen} of {runs} runs of {len(found.faults)} faults seen by their tier"
    text += f", {found.alarms.seen.seen} false alarms in {found.alarms.seen.runs} good runs"
    text += f", {found.identical} more are the reference bit for bit" if found.identical else ""
    text += f" ({len(found.cases)} cases, {found.seconds:.0f} s)"
    return f"{text}: {found.reason}" if found.reason else text


def _made(
    judged: Judged, tasks: Sequence[Task], pace: Pace, failures: list[BaseException]
) -> Iterator[Sequence[Outcome]]:
    """Outcomes soon after they are made. What a task raises goes to `failures`, and the others go on."""
    if pace.jobs == 1:
        for task in tasks:
            try:
                for outcome in _run(judged, task, pace.until):
                    yield [outcome]
            except Exception as error:
                failures.append(error)
        return
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(pace.jobs, mp_context=context) as pool:
        queue = manager.Queue()
        waiting: set[Future[None]] = {pool.submit(_send, queue, judged, task, pace.until) for task in tasks}
        while waiting:
            done, waiting = wait(waiting, PAUSE, FIRST_COMPLETED)
            yield [queue.get() for _ in range(queue.qsize())]
            failures += [raised for future in done if (raised := future.exception())]


def _send(queue: Queue[Outcome], judged: Judged, task: Task, until: float) -> None:
    """One task in a worker, each outcome as soon as it is made."""
    for outcome in _run(judged, task, until):
        queue.put(outcome)


def _run(judged: Judged, task: Task, until: float) -> Iterator[Outcome]:
    """The outcomes of one task, as far as they can be begun in time."""
    import torch

    from benchmarks.harness import other_prompts, stack
    from benchmarks.harness import selftest as harness
    from benchmarks.harness.golden_case import read_cases

    if time.monotonic() >= until:
        return
    plan = plan_of(judged.impl, judged.device, judged.dtype)
    (case,) = (one.on(stack.here(plan.device)) for one in read_cases(goldens_folder(), [task.case]))
    with torch.no_grad():
        if task.request:
            case = other_prompts.with_limits(other_prompts.another(case, task.request), plan)
        stand = harness.Stand.of(case, plan)
        for fault, draw in task.places():
            if time.monotonic() >= until:
                return
            yield harness.faulty(stand, fault, draw)
        for draw in task.good:
            for outcome in harness.good(stand, draw, draw in task.ops):
                named = f"another prompt: {outcome.name}" if task.request else outcome.name
                yield dataclasses.replace(outcome, name=named)
                if time.monotonic() >= until:
                    return
