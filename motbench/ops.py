"""`motbench ops`: does every op of an implementation agree with the reference?"""

from __future__ import annotations

import math
import typing
from pathlib import Path

import typer

from motbench.exits import Exit, keep_traceback

if typing.TYPE_CHECKING:
    import torch

    from benchmarks.harness.inputs import Case, Work
    from benchmarks.harness.records import Parity
    from reference_impl.contract import MoTOps

Opt = typer.Option


def ops(
    impl: typing.Annotated[str, Opt(help="reference, fused or package.module:OPS")] = "fused",
    case: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this case; may be repeated")] = None,
    op: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this op; may be repeated")] = None,
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "float32",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write all records as JSON")] = None,
) -> None:
    """Parity, op by op: every op on every small case, and on a GPU at BAGEL's own sizes too.

    An op that raises is outside its limits, and the others go on. Exit code 0 if all are within their limits, 1
    otherwise.
    """
    from rich.console import Console

    from benchmarks.harness.records import write_json
    from motbench.implementation import one_thread_on_a_cpu, resolve

    judged, place, precision = resolve(impl, device, dtype, tiles)
    one_thread_on_a_cpu(place)
    cases, works = _cases(case, place), _works(op)
    results: list[Parity] = []
    raised: dict[str, Exception] = {}
    with Console(stderr=True).status("judging") as status:
        for number, one in enumerate(cases):
            status.update(f"judging {one.name}, {number} of {len(cases)} cases done")
            for work in works:
                result, error = _judge(judged, work, one, precision, place)
                results.append(result)
                if error is not None:
                    raised.setdefault(work.name, error)
    if json is not None:
        write_json(json, results)
    for name in dict.fromkeys(result.op for result in results):
        print(_line([result for result in results if result.op == name]))
    for name, error in raised.items():
        print(f"{name}: the first traceback is in {keep_traceback(error)}")
    outside = [result for result in results if not result.ok]
    if outside:
        worst = max(outside, key=_share)
        where = f"--device {device} --dtype {dtype}{f' --tiles {tiles}' if tiles else ''}"
        print(f"\nlook at {worst.op} on {worst.case}, {worst.reason or f'tile {worst.tile}'}")
        print(f"type    motbench ops --impl {impl} {where} --case {worst.case} --op {worst.op}\n")
    print(f"{len(results) - len(outside)} of {len(results)} within their limits: {judged.name} {dtype} on {device}")
    raise typer.Exit(Exit.REGRESSED if outside else Exit.PASS)


def _judge(
    judged: MoTOps, work: Work, case: Case, dtype: torch.dtype, device: torch.device
) -> tuple[Parity, Exception | None]:
    """One op on one case, and what it raised. Raises NotImplementedError if the op does not have the device or dtype.

    A third party's op may raise anything and return anything; that is a finding about it.
    """
    from benchmarks.harness.gate import work_parity
    from benchmarks.harness.records import Parity

    try:
        return work_parity(judged, work, case, dtype, device), None
    except NotImplementedError as error:
        raise NotImplementedError(f"{judged.name} {work.name} on {case.name}: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        names = work.name, case.name, judged.name, device.type, str(dtype).removeprefix("torch.")
        return Parity(*names, "", math.inf, math.inf, 0.0, 0.0, ok=False, reason=reason), error


def _cases(names: list[str] | None, device: torch.device) -> list[Case]:
    """The named ones, or all that the device can do in minutes. Raises ValueError for an unknown name."""
    from benchmarks.harness.inputs import BAGEL_CASES, CASES

    known = CASES | BAGEL_CASES
    if unknown := [name for name in names or () if name not in known]:
        either = f"use one of {', '.join(CASES)}; or on a GPU one of {', '.join(BAGEL_CASES)}"
        raise ValueError(f"case {', '.join(unknown)} is unknown; {either}")
    if device.type == "cpu" and (large := [name for name in names or () if name in BAGEL_CASES]):
        raise ValueError(f"case {', '.join(large)}: BAGEL's own sizes need a GPU; add --device cuda, or name others")
    if names:
        return [known[name] for name in names]
    return list((known if device.type == "cuda" else CASES).values())


def _works(names: list[str] | None) -> list[Work]:
    """The named ops, or all. Raises ValueError for an unknown name."""
    from benchmarks.harness.inputs import WORK

    known = {work.name: work for work in WORK}
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"op {', '.join(unknown)} is unknown; use one of {', '.join(known)}")
    return [known[name] for name in names or known]


def _line(results: list[Parity]) -> str:
    """`linear/qkv  19 cases, worst/limit 0.41 at outliers`: the case nearest to its limit, or furthest beyond."""
    worst = max(results, key=lambda result: (not result.ok, _share(result)))
    found = f"worst/limit {_share(worst):.2g} at {worst.case}"
    if worst.reason:
        found = f"{worst.reason} at {worst.case}"
    outside = sum(not result.ok for result in results)
    return f"{worst.op:20} {len(results)} cases, {found}{f'  {outside} OUTSIDE' if outside else ''}"


def _share(result: Parity) -> float:
    """The error over its limit, of the worst element or of the RMS, whichever is nearer to its limit."""
    if result.reason:
        return math.inf
    pairs = (result.worst, result.limit_worst), (result.rms, result.limit_rms)
    return max(error / limit if limit else 0.0 for error, limit in pairs)
