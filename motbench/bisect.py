"""`motbench bisect GOOD BAD --bench SERIES`: the commit that made a series slower, faster, broken or another number."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from motbench.compare import Bench, Results, new_folder
from motbench.exits import Exit

if typing.TYPE_CHECKING:
    from benchmarks.harness.records import Series
    from reports.trend import Commit

ROUNDS = (6, 12, 24)
"""Paired rounds that a commit gets until it is clear on which side of the change it lies."""
DOUBT = 0.01
"""One-sided probability of calling one commit wrongly, under normal noise."""

State = typing.Literal["good", "bad", "unclear", "lacking"]


@dataclass(frozen=True)
class Seen:
    """What paired rounds of GOOD and another commit showed of one series.

    changes  per round, log(commit) - log(GOOD)
    number   what the commit's process returned where that is not a time, and GOOD's; NaN where there is none
    failed   why the commit returned nothing; lacking: it does not have what the series needs
    """

    changes: list[float]
    number: float = math.nan
    good_number: float = math.nan
    failed: str = ""
    lacking: bool = False


Look = Callable[[str, int], Seen]
"""Measure a commit against GOOD in so many rounds."""


@dataclass(frozen=True)
class Found:
    """The commits of which one made the change (one, unless some could not be judged), and what it is in words."""

    suspects: list[Commit]
    change: str


def bisect(
    good: typing.Annotated[str, typer.Argument(help="a commit before the change")],
    bad: typing.Annotated[str, typer.Argument(help="a commit with it")],
    bench: Bench = "",
    results: Results = Path("results"),
) -> None:
    """Find the commit between GOOD and BAD that changed one series. Only commits that touch what is measured are tried.

    Each is measured against GOOD in paired rounds, as by `motbench compare`; a series that breaks, or whose number is
    another, is followed too. Exit code 1 with the commit, 0 if GOOD and BAD do not differ, 3 if some could not be told.
    """
    from benchmarks.harness import environment
    from motbench.nightly import only_one
    from motbench.trend import between

    root, results = environment.repository_root(), results.resolve()
    old, new = (environment.commit_named(root, name) for name in (good, bad))
    series = only(bench)
    commits = [commit for commit in between(root, old, new) if commit.touches(series)]
    if not commits:
        raise ValueError(
            f"no commit of {good}..{bad} touches what {series.label} measures; the change is the machine's"
        )
    print(
        f"{series.label}: {len(commits)} {'commit' if len(commits) == 1 else 'commits'} can have changed it", flush=True
    )
    with only_one(results):
        found = search(commits, lambda commit, rounds: _look(root, results, old, commit, series, rounds))
    if found is None:
        print(f"{good} and {bad} do not differ: nothing to find")
        raise typer.Exit(Exit.PASS)
    for commit in found.suspects:
        print(f"{found.change}: {commit.hash[:10]} {commit.subject}")
    raise typer.Exit(Exit.REGRESSED if len(found.suspects) == 1 else Exit.INCONCLUSIVE)


def only(bench: str) -> Series:
    """The one series of this machine's profile that --bench selects. Raises ValueError for none or several."""
    import re

    from benchmarks.harness import environment, profiles

    expected = profiles.declared(environment.here().profile).expected
    chosen = [series for series in expected if re.search(bench, series.label)]
    if len(chosen) != 1:
        first = chosen[0].label if chosen else expected[0].label
        raise ValueError(f"--bench {bench!r} selects {len(chosen)} series; bisect follows one, such as {first!r}")
    return chosen[0]


def search(commits: Sequence[Commit], look: Look) -> Found | None:
    """The first bad one of `commits`, oldest first, the last of which is as bad as it gets; None if it is not bad."""
    last = look(commits[-1].hash, ROUNDS[1])
    change = _change(last)
    if not change:
        return None
    half = sum(last.changes) / len(last.changes) / 2 if last.changes else 0.0
    lowest, highest, blind = -1, len(commits) - 1, set()
    while True:
        left = [i for i in range(lowest + 1, highest) if i not in blind]
        if not left:
            return Found(list(commits[lowest + 1 : highest + 1]), change)
        middle = min(left, key=lambda i: abs(i - (lowest + highest) / 2))
        state = _told(commits[middle], look, last, half)
        if state == "bad":
            highest = middle
        elif state == "good":
            lowest = middle
        else:
            blind.add(middle)


def _told(commit: Commit, look: Look, last: Seen, half: float) -> State:
    state: State = "unclear"
    for rounds in ROUNDS:
        state = side(look(commit.hash, rounds), last, half)
        print(f"  {commit.hash[:10]} {state}: {commit.subject}", flush=True)
        if state != "unclear":
            break
    return state


def side(seen: Seen, last: Seen, half: float) -> State:
    """On which side of the change a commit lies; half: half of the logarithm of the whole change."""
    from reports import stats

    if seen.lacking:
        return "lacking"
    if last.failed or seen.failed:
        # Another failure than the one that is followed says nothing about this commit.
        return ("bad" if last.failed else "lacking") if seen.failed else "good"
    if math.isfinite(last.number):
        return "good" if math.isclose(seen.number, seen.good_number, rel_tol=1e-6) else "bad"
    estimate = stats.paired(seen.changes)
    if estimate is None:
        return "unclear"
    beyond = (estimate.mean - half) * math.copysign(1.0, half)
    if abs(beyond) <= stats.quantile(1 - DOUBT, estimate.freedom) * estimate.error:
        return "unclear"
    return "bad" if beyond > 0 else "good"


def _change(last: Seen) -> str:
    """What BAD does that GOOD does not; empty if nothing is certain."""
    from reports import stats, words

    if last.failed or last.lacking:
        return f"broke ({last.failed})"
    if math.isfinite(last.number):
        same = math.isclose(last.number, last.good_number, rel_tol=1e-6)
        return "" if same else f"from {words.number(last.good_number)} to {words.number(last.number)}"
    estimate = stats.paired(last.changes)
    if estimate is None or estimate.p > DOUBT:
        return ""
    low, high = (words.change(bound - 1) for bound in estimate.interval(0.05))
    return f"{'slower' if estimate.mean > 0 else 'faster'} by {words.change(estimate.ratio - 1)} ({low} to {high})"


def _look(root: Path, results: Path, good: str, commit: str, series: Series, rounds: int) -> Seen:
    from benchmarks.harness import clock, environment, profiles
    from benchmarks.harness.records import Failure, Timing, Value, read_lines
    from benchmarks.harness.rounds import Walk
    from reports import decide, joint

    here = environment.here()
    folder = new_folder(results, commit)
    smallest = decide.matters(here.profile, series.benchmark)
    joint.write(
        folder,
        joint.Asked(good, commit, here, clock.PROTOCOL, [series], [smallest], environment.now(), "motbench bisect"),
    )
    walk = Walk(root, folder, good, commit, here)
    timed = profiles.SUITE[series.benchmark].unit == "seconds"
    for number in range(rounds if timed else 1):
        walk.round(series, number)
        failures, _ = read_lines(folder / "failures.jsonl", Failure)
        if failures:
            break
    for failure in failures:
        if failure.side != "head":
            raise ValueError(f"GOOD returns no number: {failure.reason}; choose another")
        return Seen([], failed=failure.reason, lacking=failure.kind == "absent")
    values = {one.commit: one.value for one in read_lines(folder / "values.jsonl", Value)[0]}
    found = decide.rounds_of(read_lines(folder / "timing.jsonl", Timing)[0], here.profile)
    changes = found[decide.key(series)].changes if found else []
    return Seen(changes, values.get(commit, math.nan), values.get(good, math.nan))
