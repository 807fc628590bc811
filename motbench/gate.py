"""`motbench gate BASE HEAD`: does the image hold, and is it as fast? One verdict for a pull request."""

from __future__ import annotations

import shlex
import typing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import typer

from motbench.compare import (
    ROUNDS,
    Bench,
    Budget,
    Commit,
    Matters,
    Opt,
    Records,
    Request,
    Results,
    RoundsOption,
    SkipUnchanged,
    ask,
    asked_for,
    measure,
    new_folder,
)

if typing.TYPE_CHECKING:
    from reports.joint import Asked

NUMERICS = ("parity", "golden")


def gate(
    base: Commit = None,
    head: Commit = None,
    bench: Bench = "",
    rounds: RoundsOption = ROUNDS,
    budget: Budget = None,
    matters: Matters = None,
    results: Results = Path("results"),
    records: Records = None,
    skip_unchanged: SkipUnchanged = False,
    annotations: typing.Annotated[bool, Opt("--annotations", help="also print GitHub annotations")] = False,
    selftest: typing.Annotated[
        bool, Opt("--selftest", help="how often would the rule be wrong? With --records: on the noise recorded there")
    ] = False,
    inject: typing.Annotated[
        bool, Opt("--inject", help="with --selftest: measure slowdowns of known length, here and in real processes")
    ] = False,
) -> None:
    """Judge HEAD against BASE: parity and golden first, then speed, side by side. Leaves with the verdict's exit code.

    The budget is for speed; parity and golden come on top. Beside the records it writes decision.json, summary.md
    (for a pull request) and junit.xml.
    """
    from benchmarks.harness import environment
    from benchmarks.harness.records import EXIT_CODES, write_atomic, write_json
    from motbench.nightly import only_one
    from reports import accepted, joint, told

    root = environment.repository_root()
    if inject:
        if not selftest or records is not None:
            raise ValueError(
                "--inject measures for --selftest; type motbench gate --selftest --inject, and no --records"
            )
        _inject(root, results, asked_for(bench, rounds, budget, matters))
        return
    if selftest:
        from reports import simulate

        print(simulate.report(records, rounds, matters))
        return
    folder = records
    entries = accepted.read(root / accepted.FILE)
    if folder is None:
        request = replace(asked_for(bench, rounds, budget, matters), skip_unchanged=skip_unchanged)
        asked = ask(root, base, head, request)
        folder = new_folder(results, asked.head)
        with only_one(results.resolve()):
            joint.write(folder, asked)
            _numerics(root, results.resolve(), folder, asked)
            if joint.image_of(folder).status == "pass":
                print("speed", flush=True)
                measure(root, folder, asked, request)
    verdict = joint.judge(folder, entries, datetime.now(UTC).date(), with_image=True)
    write_json(folder / joint.VERDICT, verdict)
    write_atomic(folder / "summary.md", told.markdown(verdict).encode())
    write_atomic(folder / "junit.xml", told.junit(verdict))
    print(f"\n{told.terminal(verdict)}\nrecords, summary.md and junit.xml: {folder}")
    if annotations and (said := told.github(verdict)):
        print(said)
    raise typer.Exit(EXIT_CODES[verdict.status])


def _inject(root: Path, results: Path, request: Request) -> None:
    """Measure slowdowns of known length and print what was made of each. Records of the A/A runs are noise."""
    from motbench import injected
    from motbench.nightly import only_one
    from reports import joint

    folder = results.resolve() / "injected" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with only_one(results.resolve()):
        measured = injected.measure(root, folder, request)
    judged = [(one.name, joint.judge(one, [], datetime.now(UTC).date(), with_image=False)) for one in measured]
    print(f"\n{injected.table(judged)}\nrecords: {folder}")
    print(f"from 30 processes on: motbench gate --selftest --records {shlex.quote(str(measured[0]))}")


def _numerics(root: Path, results: Path, folder: Path, asked: Asked) -> None:
    """Parity and golden of head, as the main job runs them; the outcome is run.json."""
    from benchmarks.harness import environment
    from benchmarks.harness.records import Provenance, Run, write_json
    from motbench import nightly

    dirty = bool(environment.changed_files(root))
    made = Provenance(asked.head, dirty, asked.environment, asked.protocol, 0, asked.created, asked.command)
    night = nightly.Night(root, results, folder, made)
    steps = [nightly.timed(name, partial(nightly.measured, night, name)) for name in NUMERICS]
    write_json(folder / "run.json", Run(folder.name, asked.created, environment.now(), not dirty, made, steps))
