"""`motbench parity`: does this implementation compute what the original BAGEL computed?"""

from __future__ import annotations

import re
import typing
from pathlib import Path

import typer

from motbench.exits import Exit

if typing.TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.harness.records import Conformance, Difference

Opt = typer.Option


def parity(
    folder: typing.Annotated[Path, typer.Argument(help="holds checkpoint/ and cases/")],
    case: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this case; may be repeated")] = None,
    impl: typing.Annotated[str, Opt(help="reference, fused or package.module:OPS")] = "reference",
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "float32",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write all records as JSON")] = None,
) -> None:
    """Replay stored runs of the original BAGEL.

    Exit code 0 if all are within their limits, 1 if one is not, 4 if nothing could be judged.
    """
    from rich.console import Console

    from benchmarks.harness.conformance import replay
    from benchmarks.harness.records import write_json
    from motbench.implementation import resolve

    ops, place, precision = resolve(impl, device, dtype, tiles)
    console, waiting = Console(), Console(stderr=True)
    results = []
    with waiting.status(f"replaying {folder}") as status:
        for result in replay(folder, case, ops, place, precision):
            results.append(result)
            status.update(f"replaying {folder}: {len(results)} cases done")
            console.print(_table(result))
            print(f"  no result: {result.error}\n" if result.error else "")
    if json is not None:
        write_json(json, results)
    print(_summary(results))
    judged = [result for result in results if not result.skipped]
    if not judged:
        raise typer.Exit(Exit.NOT_MEASURED)
    raise typer.Exit(Exit.PASS if all(result.ok for result in judged) else Exit.REGRESSED)


def _table(result: Conformance) -> Table:
    """One case: every field with its largest difference, fields of many layers in one row."""
    from rich.table import Table

    word = f"skipped: {result.skipped}" if result.skipped else "within" if result.ok else "OUTSIDE"
    table = Table(title=f"{result.case}: {word} ({result.seconds:.1f} s)", title_justify="left", box=None)
    table.add_column("field", no_wrap=True)
    for name in ("largest", "limit", "rms", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for name, group in _families(result.differences).items():
        worst = max(group, key=lambda d: (not d.ok, d.worst))
        numbers = (worst.worst, worst.limit_worst, worst.rms, worst.limit_rms)
        table.add_row(name, *map(_number, numbers), "" if worst.ok else "OUTSIDE")
    if result.not_compared:
        table.caption, table.caption_justify = f"not compared: {', '.join(result.not_compared)}", "left"
    return table


def _families(differences: list[Difference]) -> dict[str, list[Difference]]:
    """ctx_main.k.0 and ctx_main.k.1 together as ctx_main.k.*, in order of first appearance."""
    families: dict[str, list[Difference]] = {}
    for difference in differences:
        families.setdefault(re.sub(r"\.\d+$", ".*", difference.field), []).append(difference)
    return families


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.2g}"


def _summary(results: list[Conformance]) -> str:
    skipped = [result.case for result in results if result.skipped]
    outside = [result.case for result in results if not result.ok and not result.skipped]
    within = len(results) - len(skipped) - len(outside)
    line = f"{within} of {len(results)} cases within their limits"
    if outside:
        line += f"; outside: {', '.join(outside)}"
    if skipped:
        line += f"; skipped, not passed: {', '.join(skipped)}"
    return line
