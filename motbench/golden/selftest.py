"""`motbench golden selftest`: injected faults and held-out good runs, and what the gate says of each."""

from __future__ import annotations

import time
import typing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import typer

from motbench.exits import Exit
from motbench.golden.common import goldens_folder, plan_of

if typing.TYPE_CHECKING:
    from benchmarks.harness.records import Selftest
    from benchmarks.harness.selftest import Outcome
    from benchmarks.harness.selftest_plan import Task

Opt = typer.Option
EXITS = {"pass": Exit.PASS, "regressed": Exit.REGRESSED}


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
        int | None, Opt(min=0, help="held-out good runs at least; 299 in the full form, one of each family else")
    ] = None,
    jobs: typing.Annotated[int, Opt(min=1, help="cases at a time, each in a process")] = 1,
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
    for found in growing(Judged(impl, device, dtype), Chosen(case, fault, full, draws, good), jobs):
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


def growing(judged: Judged, what: Chosen, jobs: int = 1) -> Iterator[Selftest]:
    """The record after every case that is done, with a line about it; the last one is whole.

    Raises OSError or ValueError for a case that cannot be read.
    """
    from benchmarks.harness import goldens, selftest_plan
    from benchmarks.harness.faults import chosen
    from benchmarks.harness.golden_case import read_cases
    from benchmarks.harness.good_runs import held_out
    from benchmarks.harness.selftest_table import GOOD_RUNS, Asked, record

    started = time.monotonic()
    plan = plan_of(judged.impl, judged.device, judged.dtype)
    cases = read_cases(goldens_folder(), what.cases)
    cases = cases if what.cases else goldens.selected(cases, plan.impl, plan.device)
    faults, families = chosen(what.faults), len(held_out(0, plan.device, plan.dtype))
    wanted = what.good if what.good is not None else 0 if what.faults else GOOD_RUNS if what.full else 1
    if what.full:
        tasks = selftest_plan.full(cases, faults, what.draws, wanted, families)
    else:
        tasks = selftest_plan.reduced(cases, faults, what.draws, int(wanted > 0))
    used = [one.name for one in cases if any(task.case == one.name for task in tasks)]
    words = [] if what.full else ["--reduced"]
    words += [word for name in what.cases or () for word in ("--case", name)]
    words += [word for name in what.faults or () for word in ("--fault", name)]
    asked = Asked(plan, used, faults, what.full and not what.cases and not what.faults, tuple(words))
    outcomes: list[Outcome] = []
    for done, (task, of_task) in enumerate(_finished(judged, tasks, jobs), 1):
        outcomes += of_task
        said = f"{task.case}{f' with another prompt ({task.request})' if task.request else ''}"
        print(f"  {done:3} of {len(tasks)}  {said}: {len(of_task)} runs", flush=True)
        yield record(asked, outcomes, time.monotonic() - started)


def sentence(found: Selftest) -> str:
    """The outcome in one line."""
    runs = sum(one.seen.runs for one in found.faults)
    seen = sum(one.seen.seen for one in found.faults)
    text = f"{found.status}: {seen} of {runs} runs of {len(found.faults)} faults seen by their tier"
    text += f", {found.alarms.seen.seen} false alarms in {found.alarms.seen.runs} good runs"
    text += f" ({len(found.cases)} cases, {found.seconds:.0f} s)"
    return f"{text}: {found.reason}" if found.reason else text


def _finished(judged: Judged, tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, list[Outcome]]]:
    """Every task with its outcomes, as soon as it is done."""
    if jobs == 1:
        yield from ((task, _run(judged, task)) for task in tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_run, judged, task): task for task in tasks}
        yield from ((waiting[done], done.result()) for done in as_completed(waiting))


def _run(judged: Judged, task: Task) -> list[Outcome]:
    """One task, in this process or in a worker."""
    import torch

    from benchmarks.harness import selftest as harness
    from benchmarks.harness import stack
    from benchmarks.harness.faults import FAULTS
    from benchmarks.harness.golden_case import read_cases

    plan = plan_of(judged.impl, judged.device, judged.dtype)
    cases = read_cases(goldens_folder())
    prompts = list(dict.fromkeys(one.request.prompt for one in cases))
    (case,) = (one.on(stack.here(plan.device)) for one in cases if one.name == task.case)
    with torch.no_grad():
        stand = harness.Stand.of(harness.another(case, prompts, task.request), plan)
        faults = [(FAULTS[name], task.draws if FAULTS[name].placed else 1) for name in task.faults]
        found = [harness.faulty(stand, fault, draw) for fault, draws in faults for draw in range(draws)]
        for draw in range(task.good):
            # Another request is another draw of every family too.
            found += harness.good(stand, draw + task.request * task.good, task.ops)
    return found
