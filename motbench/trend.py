"""`motbench trend`: what happened to every series over the commits, since when, and which commits are suspect."""

from __future__ import annotations

import functools
import typing
from datetime import UTC, datetime
from pathlib import Path

import typer

from motbench.compare import Opt, Request, Results, ask, measure, new_folder

if typing.TYPE_CHECKING:
    from reports.trend import Commit, Trend

CONFIRMING_ROUNDS = 24
"""More than a comparison has: on a noisy CPU 12 refute every sixth step of 3 % (docs/measuring.md)."""


def trend(
    results: Results = Path("results"),
    head: typing.Annotated[str, Opt(help="judge the history of this commit")] = "HEAD",
    json: typing.Annotated[Path | None, Opt(help="write the record here too")] = None,
    summary: typing.Annotated[Path | None, Opt(help="append Markdown to this file, as a CI's job summary")] = None,
    confirm: typing.Annotated[
        int, Opt(help="measure up to so many standing steps again in paired rounds, and judge by these")
    ] = 0,
    selftest: typing.Annotated[
        bool, Opt("--selftest", help="how often would the rule be wrong, beside other detectors?")
    ] = False,
    records: typing.Annotated[
        Path | None,
        Opt(metavar="DIR", help="with --selftest: take the noise of this comparison of a commit with itself"),
    ] = None,
) -> None:
    """Judge every recorded number along the history of a commit. Leaves with the verdict's exit code.

    Reads run records and asv's results; writes RESULTS/trend.json. Measures nothing without --confirm.
    """
    from benchmarks.harness import environment
    from benchmarks.harness.records import EXIT_CODES, write_json
    from reports import trend_told
    from reports.trend import FILE

    if selftest:
        from reports import trend_selftest

        print(trend_selftest.report(records))
        return
    root, results = environment.repository_root(), results.resolve()
    found = judged(root, results, head)
    if confirm and _confirmed(root, results, found, confirm):
        found = judged(root, results, head)
    for path in (results / FILE, *([json] if json else [])):
        write_json(path, found)
    if summary is not None:
        with summary.open("a") as file:
            file.write(trend_told.markdown(found))
    print(f"{trend_told.terminal(found)}\nrecord: {results / FILE}")
    raise typer.Exit(EXIT_CODES[found.status])


def judged(root: Path, results: Path, head: str) -> Trend:
    """The trend along the history of `head`. Raises ValueError for a commit that git does not know."""
    from benchmarks.harness import environment
    from reports import accepted, history
    from reports import trend as judge

    newest = environment.commit_named(root, head)
    hashes = environment.git(root, "rev-list", "--reverse", "--topo-order", newest).split()
    order = {commit: i for i, commit in enumerate(hashes)}
    joints, damage = judge.comparisons(results)
    found = history.read(results, order)
    found.damage += damage
    known = judge.Known(
        order,
        functools.cache(functools.partial(between, root)),
        joints,
        accepted.read(root / accepted.FILE),
        datetime.now(UTC).date(),
    )
    return judge.judge(found, known, environment.now())


def between(root: Path, before: str, after: str) -> list[Commit]:
    """The commits after `before` up to and with `after`, oldest first, and which packages under test each changes."""
    from benchmarks.harness import environment, overlay
    from reports.trend import Commit

    span = f"{before}..{after}"
    changing = {
        package: set(environment.git(root, "rev-list", span, "--", package).split()) for package in overlay.PACKAGES
    }
    told = environment.git(root, "log", "--reverse", "--topo-order", "--format=%H %s", span).splitlines()
    commits = [line.partition(" ") for line in told]
    return [
        Commit(commit, subject, [package for package, found in changing.items() if commit in found])
        for commit, _, subject in commits
    ]


def _confirmed(root: Path, results: Path, found: Trend, most: int) -> bool:
    """Measure standing steps of time in paired rounds across them; whether any was."""
    from benchmarks.harness.records import write_json
    from motbench.nightly import only_one
    from reports import joint

    open_ = [e for e in found.events if e.standing and e.kind in ("slower", "faster") and e.certainty != "confirmed"]
    for event in open_[:most]:
        request = Request(joint.exactly(event.series), CONFIRMING_ROUNDS)
        asked = ask(root, event.before, event.after, request)
        folder = new_folder(results, asked.head)
        print(f"paired rounds for {event.series.label}, {event.before[:8]} and {event.after[:8]}", flush=True)
        with only_one(results):
            measure(root, folder, asked, request)
        write_json(folder / joint.VERDICT, joint.judge(folder, [], datetime.now(UTC).date(), with_image=False))
    return bool(open_)
