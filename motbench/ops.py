"""`motbench ops`: does every op of an implementation agree with the reference?"""

from __future__ import annotations

import typing
from pathlib import Path

import typer

from motbench.exits import Exit

if typing.TYPE_CHECKING:
    import torch

    from benchmarks.harness.inputs import Case
    from benchmarks.harness.records import Parity
    from reference_impl.contract import MoTOps

Opt = typer.Option


def ops(
    impl: typing.Annotated[str, Opt(help="reference, fused or package.module:OPS")] = "fused",
    case: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this case; may be repeated")] = None,
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "float32",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write all records as JSON")] = None,
) -> None:
    """Parity, op by op: every op on every small case, and on a GPU at BAGEL's own sizes too.

    Exit code 0 if all are within their limits, 1 otherwise.
    """
    from rich.console import Console

    from benchmarks.harness.records import write_json
    from motbench.implementation import resolve

    judged, place, precision = resolve(impl, device, dtype, tiles)
    cases = _cases(case, place)
    results: list[Parity] = []
    with Console(stderr=True).status("judging") as status:
        for number, one in enumerate(cases):
            status.update(f"judging {one.name}, {number} of {len(cases)} cases done")
            results += _judge(judged, one, precision, place)
    if json is not None:
        write_json(json, results)
    for op in dict.fromkeys(result.op for result in results):
        print(_line([result for result in results if result.op == op]))
    outside = [result for result in results if not result.ok]
    if outside:
        first = outside[0]
        folder = f" --tiles {tiles}" if tiles else ""
        print(f"\nlook at {first.op} on {first.case}, tile {first.tile}")
        print(f"type    motbench ops --impl {impl} --device {device} --dtype {dtype}{folder} --case {first.case}\n")
    print(f"{len(results) - len(outside)} of {len(results)} within their limits: {judged.name} {dtype} on {device}")
    raise typer.Exit(Exit.REGRESSED if outside else Exit.PASS)


def _judge(judged: MoTOps, case: Case, dtype: torch.dtype, device: torch.device) -> list[Parity]:
    """Every op on one case. Raises ValueError naming the op for whatever it raises: a third party's may be anything."""
    from benchmarks.harness.gate import work_parity
    from benchmarks.harness.inputs import WORK

    results = []
    for work in WORK:
        try:
            results.append(work_parity(judged, work, case, dtype, device))
        except Exception as error:
            raise ValueError(f"{judged.name} {work.name} on {case.name}: {type(error).__name__}: {error}") from error
    return results


def _cases(names: list[str] | None, device: torch.device) -> list[Case]:
    """The named ones, or all that the device can do in minutes. Raises ValueError for an unknown name."""
    from benchmarks.harness.inputs import BAGEL_CASES, CASES

    known = CASES | BAGEL_CASES
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"case {', '.join(unknown)} is unknown; use one of {', '.join(known)}")
    if names:
        return [known[name] for name in names]
    return list((known if device.type == "cuda" else CASES).values())


def _line(results: list[Parity]) -> str:
    """`linear/qkv  19 cases, worst/limit 0.41 at outliers`: the case nearest to its limit, or furthest beyond."""
    worst = max(results, key=lambda result: (not result.ok, _share(result)))
    mark = "" if worst.ok else "  OUTSIDE"
    return f"{worst.op:20} {len(results)} cases, worst/limit {_share(worst):.2g} at {worst.case}{mark}"


def _share(result: Parity) -> float:
    """The error over its limit, of the worst element or of the RMS, whichever is nearer to its limit."""
    pairs = (result.worst, result.limit_worst), (result.rms, result.limit_rms)
    return max(error / limit if limit else 0.0 for error, limit in pairs)
