"""`motbench golden calibrate`: measure known-good runs, and set limits as a quantile of them."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import typer

from benchmarks.harness.precision import DTYPES as EVERY
from motbench.golden.common import goldens_folder

if typing.TYPE_CHECKING:
    from benchmarks.harness.calibrate_files import Figures, Population
    from benchmarks.harness.calibrate_propose import Change, Rates
    from benchmarks.harness.golden_case import GoldenCase

Opt = typer.Option
DTYPES = list(EVERY)


@dataclass(frozen=True)
class How:
    """What is measured of each case, as it is typed.

    dtypes  precisions by name (harness/precision.py)
    cases   names of all that are measured
    """

    device: str
    dtypes: list[str]
    runs: int
    anew: bool
    jobs: int = 1
    out: Path | None = None
    cases: tuple[str, ...] = ()


def calibrate(
    case: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this case; may be repeated")] = None,
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[list[str], Opt(metavar="DTYPE", help="may be repeated; all three unless given")] = DTYPES,
    quantise: typing.Annotated[
        str | None, Opt(metavar="KIND", help="fp8 or int8: of pictures whose linear layers are kept so")
    ] = None,
    runs: typing.Annotated[int, Opt(min=6, help="known-good runs of each case in each dtype")] = 40,
    jobs: typing.Annotated[int, Opt(min=1, help="processes, each with a case in one dtype at a time")] = 1,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="write the figures, case by case")] = None,
    figures: typing.Annotated[
        list[Path] | None, Opt(metavar="FILE", help="figures that --json wrote elsewhere, instead of measuring here")
    ] = None,
    new_golden: typing.Annotated[
        bool, Opt("--new-golden", help="measure drift from today's picture, which `accept` is to approve next")
    ] = False,
    reason: typing.Annotated[str, Opt(help="set the limits, and why; kept with them. Without it nothing is set")] = "",
) -> None:
    """Measure how far known-good runs lie apart, show the limits that follow and, with --reason, set them.

    Exit code 2, and nothing is set, in a dirty tree, if a rate was not measured, if the witness disagrees with the
    golden, or if a change of the request or a fault that is no longer seen is not named in the reason.
    """
    from benchmarks.harness import calibrate_apply, calibrate_files, calibrate_propose, golden_accept, precision
    from benchmarks.harness.golden_case import read_cases
    from motbench.implementation import kind_named

    root, kind = goldens_folder(), kind_named(quantise)
    cases = read_cases(root, case)
    by = golden_accept.approver(root.parent, reason, [one.name for one in cases]) if reason else None
    if figures:
        new = _read(figures)
        if json is not None:
            calibrate_files.write(json, new)
        cases = [one for one in cases if one.name in new.cases] if not case else cases
    else:
        names, made_in = tuple(one.name for one in cases), [precision.named(one, kind) for one in dtype]
        new = _measured(root, cases, How(device, made_in, runs, new_golden, jobs, json, names))
    dtypes = [name for name in precision.NAMES if any(name in new.cases.get(one.name, {}) for one in cases)]
    stored = calibrate_files.stored(root)
    same = next((one for one in stored if one.stack == new.stack), None)
    whole = calibrate_propose.current(calibrate_files.joined_with_stored(root, new), read_cases(root))
    others = [one for one in stored if one.stack != new.stack]
    changes = calibrate_propose.propose(cases, whole, others, dtypes)
    _show(changes, calibrate_propose.rates([whole], dtypes), calibrate_propose.factors(whole, dtypes))
    _show_reproduced(calibrate_files.differences(same, new))
    if by is None:
        print('no limit was changed; set them with --reason "..."')
        return
    calibrate_apply.apply(root, changes, [whole, *others], by)
    print(f"set by {by.name} at {by.commit[:12]}: {by.reason}\nnow commit golden_images/")


def _read(paths: Sequence[Path]) -> Population:
    """Several files of one stack as one."""
    from benchmarks.harness import calibrate_files

    first, *rest = (calibrate_files.read(path) for path in paths)
    for other in rest:
        first = first.joined(other)
    return first


def _measured(root: Path, cases: Sequence[GoldenCase], how: How) -> Population:
    """Measure here, and write after each case in each dtype. What one raises is raised when the others are done."""
    from benchmarks.harness import calibrate_files, environment, images, precision, stack
    from benchmarks.harness.calibrate_files import Population
    from motbench.implementation import resolve

    place = resolve("reference", how.device, precision.parsed(how.dtypes[0])[0])[1]
    here, commit = stack.here(place), environment.git(root.parent, "rev-parse", "HEAD")
    found: dict[str, dict[str, Figures]] = {}
    failures: list[Exception] = []
    so_far = Population(here, images.DEFINITION, environment.now(), commit, environment.here(), found)
    for case, dtype, figures in _each(cases, how, failures):
        found.setdefault(case, {})[dtype] = figures
        ordered = {name: found[name] for name in sorted(found)}
        so_far = Population(here, images.DEFINITION, environment.now(), commit, environment.here(), ordered)
        if how.out is not None:
            calibrate_files.write(how.out, so_far)
        print(f"  measured {case} in {dtype}", flush=True)
    if failures:
        raise failures[0]
    return so_far


def _each(cases: Sequence[GoldenCase], how: How, failures: list[Exception]) -> Iterator[tuple[str, str, Figures]]:
    """Case, dtype and what was measured. With several processes the longest are first, so that all end together."""
    from benchmarks.harness.selftest_plan import cost

    if how.jobs == 1:
        yield from ((case.name, dtype, _figures(how, case.name, dtype)) for case in cases for dtype in how.dtypes)
        return
    longest = sorted(cases, key=cost, reverse=True)
    with ProcessPoolExecutor(how.jobs, mp_context=get_context("spawn")) as pool:
        waiting = {
            pool.submit(_figures, how, case.name, dtype): (case.name, dtype) for case in longest for dtype in how.dtypes
        }
        for done in as_completed(waiting):
            try:
                yield (*waiting[done], done.result())
            except Exception as error:
                failures.append(error)


def _figures(how: How, name: str, dtype: str) -> Figures:
    """Of one case in one precision, here or in a worker. All cases decide which fault goes into which: so parts fit.

    But quantised layers are judged on few cases: the named ones have all faults between them.
    """
    from benchmarks.harness import calibrate, precision, stack
    from benchmarks.harness.golden_case import read_cases
    from motbench.implementation import one_thread_on_a_cpu, resolve

    asked, quantise = precision.parsed(dtype)
    _, place, made_in = resolve("reference", how.device, asked)
    one_thread_on_a_cpu(place)
    cases = read_cases(goldens_folder())
    (case,) = (one.on(stack.here(place)) for one in cases if one.name == name)
    faults = calibrate.assigned([one for one in cases if quantise is None or one.name in how.cases])[name]
    return calibrate.measure(calibrate.Task(case, place, made_in, how.runs, faults, how.anew, quantise))


def _show(changes: Sequence[Change], rates: Rates, factors: dict[typing.Any, float]) -> None:
    """Per kind and dtype the factor and the rate of false alarms; per case the limits that move."""
    for (kind, dtype), factor in factors.items():
        name = f"{kind} {dtype}"
        runs, prompts = rates.alarms[name], rates.prompts[name]
        measured = f"{runs.seen} of {runs.runs} known-good runs outside, at most {runs.high:.2%}" if runs.runs else ""
        by = f"; {prompts.seen} of {prompts.runs} prompts, at most {prompts.high:.0%}" if runs.runs else ""
        print(f"{name:16} limit {factor:.3f} x the farthest run; {measured or 'false alarms not measured'}{by}")
    for change in changes:
        for dtype, rate in change.detection.items():
            before = change.detection_before[dtype]
            seen = f"{rate.seen} of {rate.runs} faults seen, {before.seen} with the old limits"
            print(f"  {change.case.name:24} {dtype:9} {seen}{_moved(change, dtype)}")


def _moved(change: Change, dtype: str) -> str:
    from benchmarks.harness.golden_limits import KINDS, distance

    told = []
    for kind in KINDS:
        old, new = change.case.limits_of(kind, dtype) or {}, change.overlay[kind][dtype].given
        pairs = [distance(name, limit) / distance(name, old[name]) for name, limit in new.items() if name in old]
        told += [f"; {kind} limits {min(pairs):.2f} to {max(pairs):.2f} of the base's"] if pairs else []
    return "".join(told)


def _show_reproduced(differences: dict[str, float]) -> None:
    if differences:
        worst = max(differences, key=lambda name: differences[name])
        print(f"against the stored figures: at most {differences[worst]:.2%} apart, in {worst}")
