"""`motbench nightly`, the main job: doctor, conformance, parity, golden images, self-test, asv, verdict, report."""

from __future__ import annotations

import fcntl
import os
import sys
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import typer

from motbench.exits import Exit

if typing.TYPE_CHECKING:
    from benchmarks.harness.records import Provenance, Status, Step

GATES = ("conformance", "parity", "golden", "selftest")
"""The steps that must be green before time is measured, in order."""

STEP_LIMIT_S = 30 * 60
"""A step that runs longer is ended and is not measured: a hang must not cost the report."""

KEPT_COMMITS = 5
"""Commits whose packages and compiled kernels stay in .asv/nightly; either is made again in a minute."""


@dataclass(frozen=True)
class Night:
    """What every step needs: the repository, where results go, this run's folder and what it measures."""

    root: Path
    results: Path
    folder: Path
    provenance: Provenance


def nightly(
    results: typing.Annotated[Path, typer.Option(help="where records, asv results and the report go")] = Path(
        "results"
    ),
    keep: typing.Annotated[
        int, typer.Option(min=1, help="runs whose pictures are kept; records are kept for good")
    ] = 30,
) -> None:
    """Run the main job on HEAD to the end; leave with the verdict's exit code."""
    from benchmarks.harness import asv_runner, doctor, environment, overlay, records
    from motbench import summary
    from reports import retention, site
    from reports import verdict as judge

    root = environment.repository_root()
    if doctor.look("torch", root).status == "failed":  # without torch, nothing can say what machine this is
        print("\n".join(doctor.lines(doctor.examine(root))))
        raise typer.Exit(Exit.BAD_INPUT)
    provenance = environment.provenance(root, seed=0, command="motbench nightly")
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{provenance.commit[:8]}"
    night = Night(root, results.resolve(), results.resolve() / "runs" / run_id, provenance)
    with only_one(night.results):
        if provenance.dirty:
            print("The tree is dirty: HEAD is measured and shown, but not stored as a baseline.")
        run = records.Run(run_id, environment.now(), "", not provenance.dirty, provenance, [])
        for outcome in _steps(night):
            run = replace(run, steps=[*run.steps, outcome], finished=environment.now())
            records.write_json(night.folder / "run.json", run)
            print(f"  {outcome.name}: {outcome.status} {outcome.reason}".rstrip() + f" ({outcome.seconds:.0f} s)")

        print("verdict and report", flush=True)
        verdict = judge.judge(night.folder, night.results)
        records.write_json(night.folder / "verdict.json", verdict)
        retention.prune(night.results, keep)
        overlay.prune(root / ".asv" / "nightly", KEPT_COMMITS)
        asv_runner.publish(root, night.results)
        _trend(night)
        page = site.build(night.results, night.results / "site")
        print(f"\n{summary.text(verdict)}\n\nreport: {page}")
    raise typer.Exit(records.EXIT_CODES[verdict.status])


def _trend(night: Night) -> None:
    """Judge the history of the run's commit, for the report; what is wrong with it is said, and costs no night."""
    from benchmarks.harness import records
    from motbench.trend import judged
    from reports import trend

    try:
        records.write_json(night.results / trend.FILE, judged(night.root, night.results, night.provenance.commit))
    except (OSError, ValueError) as error:
        print(f"  the history is not judged: {error}")


@contextmanager
def only_one(results: Path) -> Iterator[None]:
    """Hold results/.lock: two runs at once would disturb each other's times. Raises ValueError if another holds it."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another run is writing to {results}; wait for it, or give --results elsewhere"
            ) from error
        yield


def _steps(night: Night) -> Iterator[Step]:
    """Each step's outcome in turn. A failed doctor ends the run; a red gate lets the other gates run, but not asv."""
    from benchmarks.harness.records import Step

    doctor = timed("doctor", lambda: _doctor(night))
    yield doctor
    if doctor.status != "pass":
        return
    red = []
    for name in GATES:
        outcome = timed(name, partial(measured, night, name))
        red += [name] if outcome.status != "pass" else []
        yield outcome
    if red:
        are = "are" if len(red) > 1 else "is"
        yield Step("asv", "not-measured", 0.0, f"no time is measured while {' and '.join(red)} {are} not green")
    else:
        yield timed("asv", partial(_asv, night))


def timed(name: str, run: Callable[[], tuple[Status, str]]) -> Step:
    """One step, announced before and never raising for what the step itself did wrong."""
    from benchmarks.harness.records import Step

    print(name, flush=True)
    started = time.monotonic()
    try:
        status, reason = run()
    except (OSError, ValueError) as error:
        status, reason = "not-measured", " ".join(str(error).split())
    return Step(name, status, time.monotonic() - started, reason)


def _doctor(night: Night) -> tuple[Status, str]:
    from benchmarks.harness import doctor, profiles, records

    checks = doctor.examine(night.root)
    records.write_json(night.folder / "doctor.json", checks)
    profile = profiles.declared(night.provenance.environment.profile)
    records.write_json(night.folder / "series.json", profile)
    failed = [check for check in checks if check.status == "failed"]
    if failed:
        return "not-measured", f"{failed[0].name}: {failed[0].found}; {failed[0].cure}"
    return "pass", ""


def measured(night: Night, name: str) -> tuple[Status, str]:
    """One measuring step in its own process, importing the packages under test of HEAD and nothing newer.

    What it prints is in NAME.log of the run's folder too; its last word is the reason if it dies.
    """
    from benchmarks.harness import logged, overlay
    from benchmarks.harness.records import EXIT_CODES

    commit = night.provenance.commit
    kept = night.root / ".asv" / "nightly" / commit
    packages = overlay.export(night.root, commit, kept)
    os.utime(kept)  # pruning goes by age of use
    path = os.pathsep.join((str(packages), str(night.root)))
    environment = os.environ | {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(kept / "triton")}
    if night.provenance.environment.profile == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    # -P: without it the working directory would come before the overlay; -u: what is printed is seen at once.
    command = [sys.executable, "-u", "-P", "-m", "motbench", "step", name]
    command += [str(night.folder), str(packages), str(night.root)]
    log = night.folder / f"{name}.log"
    code = logged.run(command, log, environment, night.root, STEP_LIMIT_S)
    for status, known in EXIT_CODES.items():
        if known == code:
            return status, "" if status == "pass" else f"see {name}.jsonl in {night.folder}"
    return "not-measured", logged.why(code, log)


def _asv(night: Night) -> tuple[Status, str]:
    from benchmarks.harness import asv_runner

    return asv_runner.run(night.root, night.results, night.folder, commit=night.provenance.commit)
