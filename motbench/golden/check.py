"""`motbench golden check`: judge pictures against the reference and the approved ones."""

from __future__ import annotations

import itertools
import shlex
import typing
from pathlib import Path

import typer

from motbench.exits import Exit
from motbench.golden.common import goldens_folder, plan_of

if typing.TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.harness.records import Golden

Opt = typer.Option
OUT = Path("results/golden")
COLUMNS = {
    "absmax": "max",
    "share_over_0": "share",
    "psnr": "PSNR",
    "ssim_worst_tile": "SSIM",
    "flip_worst_tile": "FLIP",
    "latent_relative_l2": "latents",
}
"""Metrics of the table (SSIM and FLIP of the worst tile) and their titles; all others are in the JSON."""


def check(
    case: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this case; may be repeated")] = None,
    impl: typing.Annotated[
        str | None, Opt(help="reference, fused or package.module:OPS; reference and then fused unless given")
    ] = None,
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "float32",
    quantise: typing.Annotated[
        str | None, Opt(metavar="KIND", help="fp8 or int8: keep linear layers so, and judge by that kind's limits")
    ] = None,
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    out: typing.Annotated[Path, Opt(metavar="DIR", help="where pictures/ goes")] = OUT,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write all records as JSON")] = None,
) -> None:
    """Judge golden cases: against the reference (parity) and the approved picture or answer (drift).

    On a CPU the fused kernels are interpreted and get the short cases, unless --case names others; quantised layers
    get the pictures that have limits of their kind. Exit code 0 if all are within their limits, 1 if one is not, 4 if
    one could not be measured.
    """
    from rich.console import Console

    from benchmarks.harness import goldens, records
    from benchmarks.harness.golden_answers import check_answers, read_all

    root = goldens_folder()
    console, waiting = Console(), Console(stderr=True)
    plans = [plan_of(name, device, dtype, tiles, quantise) for name in ([impl] if impl else ["reference", "fused"])]
    pictures, questions = read_all(root, case)
    if quantise and not case:
        pictures, questions = goldens.limited(pictures, plans[0]), []
        if not pictures:
            raise ValueError(f"no case has limits in {plans[0].dtype_name}; name one with --case, or calibrate")
    results: list[Golden] = []
    left: list[str] = []
    for plan in plans:
        chosen = pictures if case else goldens.selected(pictures, plan.impl, plan.device)
        asked = questions if case else goldens.selected(questions, plan.impl, plan.device)
        left += [f"{plan.impl} {one.name}" for one in pictures if one not in chosen]
        left += [f"{plan.impl} {one.name}" for one in questions if one not in asked]
        with waiting.status(f"judging {plan.impl}") as status:
            for result in itertools.chain(goldens.check(chosen, plan, out), check_answers(asked, plan, out)):
                results.append(result)
                status.update(f"judging {plan.impl}: {len({r.case for r in results})} cases done")
                print(_line(result), flush=True)
    for one, against in dict.fromkeys((r.impl, r.against) for r in results):
        console.print("", _table([r for r in results if (r.impl, r.against) == (one, against)]))
    for result in results:
        if result.status != "pass":
            print(_hints(result, out, tiles))
    if left:
        print(f"\nnot judged, too long for the interpreter: {', '.join(left)}")
    if json is not None:
        records.write_json(json, results)
    within = sum(result.status == "pass" for result in results)
    where = f"{plans[0].dtype_name} on {device}"
    print(f"\n{within} of {len(results)} within their limits in {where}; pictures in {out / 'pictures'}")
    raise typer.Exit(exit_code(results))


def exit_code(results: typing.Sequence[Golden]) -> Exit:
    """Disagreeing weighs more than missing; nothing judged is not measured."""
    found = {result.status for result in results}
    if "regressed" in found:
        return Exit.REGRESSED
    return Exit.PASS if found == {"pass"} else Exit.NOT_MEASURED


def _line(result: Golden) -> str:
    said = f"{result.case:32} {result.impl} against {result.against:9}"
    return f"  {said}  {result.status:12} {result.seconds:5.1f} s  {result.words}"


def _hints(result: Golden, out: Path, tiles: Path | None) -> str:
    """What failed, the picture to look at, and the lines to type: judging it again, and where it comes apart."""
    from benchmarks.harness import precision

    shown = result.pictures.get("side by side") or next(reversed(result.pictures.values()), None)
    of_fused = ["--tiles", str(tiles)] if tiles else []
    again = shlex.join(of_fused + (["--out", str(out)] if out != OUT else []))
    lines = [
        f"\n{result.status}: {result.case} {result.impl} against {result.against}: {result.reason}",
        f"  look at {out / shown if shown else 'nothing: no picture'}",
        f"  type    {result.reproduce} {again}".rstrip(),
    ]
    if result.impl != "reference" and result.status == "regressed" and precision.parsed(result.dtype)[1] is None:
        words = ["motbench", "trace", result.case, "--impl", result.impl, "--device", result.device]
        lines.append(f"  or      {shlex.join([*words, '--dtype', result.dtype, *of_fused])}")
    return "\n".join(lines)


def _table(results: typing.Sequence[Golden]) -> Table:
    from rich.table import Table

    first = results[0]
    title = f"{first.impl} against {first.against}, {first.dtype} on {first.device}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("", no_wrap=True)
    for column in COLUMNS.values():
        table.add_column(column, justify="right", no_wrap=True)
    for r in results:
        numbers = (f"{r.metrics[name]:.3g}" if name in r.metrics else "" for name in COLUMNS)
        table.add_row(r.case, r.status, *numbers)
    return table
