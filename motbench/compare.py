"""`motbench compare BASE HEAD`: which series got slower, measured side by side. `motbench gate` adds the image."""

from __future__ import annotations

import re
import shlex
import sys
import time
import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import typer

if typing.TYPE_CHECKING:
    from benchmarks.harness.records import Series
    from benchmarks.harness.rounds import Walk
    from reports.joint import Asked

ROUNDS = 12
"""Rounds of every series without --budget: each side stands four times in every place."""
GIVE_UP = 2
"""Rounds without one whole one, after which a series is left alone: it is broken, and more of it costs others' time."""

Opt = typer.Option
Commit = typing.Annotated[str | None, typer.Argument(help="a commit, a branch or a tag")]
Bench = typing.Annotated[str, Opt(metavar="REGEX", help="only series whose name matches, as asv's --bench")]
Budget = typing.Annotated[float | None, Opt(metavar="MINUTES", help="spend this on the series that need it most")]
RoundsOption = typing.Annotated[int, Opt(help="rounds of every series, three processes each; without --budget")]
Matters = typing.Annotated[float | None, Opt(help="smallest slowdown that matters, 0.02 for 2 %; default by machine")]
SkipUnchanged = typing.Annotated[
    bool, Opt("--skip-unchanged", help="do not time series whose compiled kernels and launches are the same; list them")
]
Results = typing.Annotated[Path, Opt(help="where records go: RESULTS/comparisons/<id>")]
Records = typing.Annotated[Path | None, Opt(metavar="DIR", help="judge what lies there, and measure nothing")]


@dataclass(frozen=True)
class Request:
    """What to measure.

    budget_s        seconds, or None for `rounds` of every series
    smallest        the change that matters; None for the declared one
    skip_unchanged  look at both commits first, and time no series whose kernels are the same
    """

    bench: str = ""
    rounds: int = ROUNDS
    budget_s: float | None = None
    smallest: float | None = None
    skip_unchanged: bool = False


def compare(
    base: Commit = None,
    head: Commit = None,
    bench: Bench = "",
    rounds: RoundsOption = ROUNDS,
    budget: Budget = None,
    matters: Matters = None,
    results: Results = Path("results"),
    records: Records = None,
    skip_unchanged: SkipUnchanged = False,
) -> None:
    """Measure BASE and HEAD in turns and say what changed; speed only. Leaves with the verdict's exit code."""
    from benchmarks.harness import environment
    from benchmarks.harness.records import EXIT_CODES, write_json
    from motbench.nightly import only_one
    from reports import accepted, joint, told

    root = environment.repository_root()
    folder = records
    if folder is None:
        request = replace(asked_for(bench, rounds, budget, matters), skip_unchanged=skip_unchanged)
        asked = ask(root, base, head, request)
        folder = new_folder(results, asked.head)
        with only_one(results.resolve()):
            measure(root, folder, asked, request)
    verdict = joint.judge(folder, accepted.read(root / accepted.FILE), datetime.now(UTC).date(), with_image=False)
    write_json(folder / joint.VERDICT, verdict)
    print(f"\n{told.terminal(verdict)}\nrecords: {folder}")
    raise typer.Exit(EXIT_CODES[verdict.status])


def asked_for(bench: str, rounds: int, budget: float | None, matters: float | None) -> Request:
    """The options as a value. Raises ValueError for one that makes no sense."""
    from reports import decide, joint

    try:
        re.compile(bench)
    except re.error as error:
        raise ValueError(f"--bench {bench!r} is no regular expression: {error}") from error
    if not decide.LEAST <= rounds <= joint.MOST:
        raise ValueError(
            f"--rounds {rounds} must be from {decide.LEAST}, before which nothing is decided, to {joint.MOST}"
        )
    if budget is not None and not 0 < budget < 24 * 60:
        raise ValueError(f"--budget {budget:g} must be minutes, more than 0 and less than a day")
    if matters is not None and not 0 < matters < 1:
        raise ValueError(f"--matters {matters:g} must be a fraction between 0 and 1: 0.02 is 2 %")
    return Request(bench, rounds, None if budget is None else 60 * budget, matters)


def ask(root: Path, base: str | None, head: str | None, request: Request) -> Asked:
    """Resolve commits and series. Raises ValueError for an unknown commit or a --bench that selects nothing."""
    from benchmarks.harness import clock, environment, profiles
    from reports import decide
    from reports.joint import Asked

    if base is None or head is None:
        raise ValueError("two commits are needed: BASE and HEAD; or --records DIR to judge what was measured before")
    old, new = (environment.commit_named(root, name) for name in (base, head))
    here = environment.here()
    timed = profiles.compared(here.profile)
    chosen = [series for series in timed if re.search(request.bench, series.label)]
    if not chosen:
        raise ValueError(
            f"--bench {request.bench!r} selects none of {len(timed)} series; the first is {timed[0].label}"
        )
    smallest = [request.smallest or decide.matters(here.profile, series.benchmark) for series in chosen]
    command = shlex.join(["motbench", *sys.argv[1:]])
    return Asked(old, new, here, clock.PROTOCOL, chosen, smallest, environment.now(), command)


def new_folder(results: Path, head: str) -> Path:
    """A folder for one comparison; its name begins with the time."""
    return results.resolve() / "comparisons" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{head[:8]}"


def measure(root: Path, folder: Path, asked: Asked, request: Request) -> None:
    """Walk the rounds until the request is met, and say what is going on. Records of a killed walk can be judged.

    Raises ValueError, before anything is written, if a commit cannot be exported.
    """
    from benchmarks.harness import environment, rounds
    from reports import joint

    if environment.changed_files(root):
        print("The tree is dirty: commits are measured, not the changes of the packages under test.")
    # A process that hangs may not cost more than everything else together.
    limit = min(rounds.TIMEOUT_S, request.budget_s or rounds.TIMEOUT_S)
    walk = rounds.Walk(root, folder, asked.base, asked.head, asked.environment, limit)
    for commit in (asked.base, asked.head):
        walk.export(commit)
    joint.write(folder, asked)
    started = time.monotonic()
    same = _unchanged(walk, folder, asked) if request.skip_unchanged else set()
    done = [joint.MOST if i in same else 0 for i in range(len(asked.series))]
    cost = [0.0] * len(asked.series)
    while (chosen := next_series(folder, asked, request, done)) is not None:
        spent = time.monotonic() - started
        if request.budget_s is not None and spent + cost[chosen] > request.budget_s:
            print(f"  the budget of {request.budget_s / 60:g} min is spent", flush=True)
            break
        cost[chosen] = _announced(walk, asked.series[chosen], done[chosen], request)
        done[chosen] += 1


def _unchanged(walk: Walk, folder: Path, asked: Asked) -> set[int]:
    """Look at every series of both commits; which of them need not be timed."""
    from benchmarks.harness.records import Look, read_lines
    from reports import decide, joint

    for series in asked.series:
        print(f"  look      {series.label}", flush=True)
        walk.look(series)
    same = {decide.key(one) for one in joint.unchanged(asked, read_lines(folder / joint.LOOKS, Look)[0])}
    known = f"{len(same)} of {len(asked.series)} series are known to run the same kernels and are not timed"
    print(f"  {known}; what compiles none, as the reference on a CPU, always is", flush=True)
    return {i for i, series in enumerate(asked.series) if decide.key(series) in same}


def turn(number: int, request: Request) -> str:
    """Round `number`, from 0, in words: round  7 of 12. A budget is spent until it is gone: no number is the last."""
    return f"round {number + 1:2}" + (f" of {request.rounds}" if request.budget_s is None else "")


def _announced(walk: Walk, series: Series, number: int, request: Request) -> float:
    print(f"  {turn(number, request)}  {series.label}", end="", flush=True)
    seconds = walk.round(series, number)
    print(f"  {seconds:.1f} s", flush=True)
    return seconds


def next_series(folder: Path, asked: Asked, request: Request, done: Sequence[int]) -> int | None:
    """Which series gets the next round; None when enough was measured.

    All get the same number first, in turns: with a budget, as few as can decide. What is left of it goes where the
    noise, as base against base shows it, is furthest from letting a change that matters be called.
    """
    from benchmarks.harness.records import Timing, read_lines
    from reports import decide, joint

    found = decide.rounds_of(read_lines(folder / "timing.jsonl", Timing)[0], asked.environment.profile)
    whole = {i: found[name] for i, s in enumerate(asked.series) if (name := decide.key(s)) in found}
    alive = [i for i, n in enumerate(done) if n < GIVE_UP or (i in whole and whole[i].seconds)]
    wanted = request.rounds if request.budget_s is None else decide.LEAST
    behind = [i for i in alive if done[i] < wanted]
    if behind:
        return min(behind, key=lambda i: done[i])
    if request.budget_s is None:
        return None
    needs = {
        i: decide.need(whole[i], asked.smallest[i], len(done)) for i in alive if i in whole and done[i] < joint.MOST
    }
    neediest = max(needs, key=lambda i: needs[i], default=None)
    return neediest if neediest is not None and needs[neediest] > 1 else None
