"""`motbench trace`: where two implementations come apart, by step, layer, op, expert and branch."""

from __future__ import annotations

import shlex
import typing
from pathlib import Path

import typer

from motbench.exits import Exit

if typing.TYPE_CHECKING:
    from benchmarks.harness.trace import Trace

Opt = typer.Option
OUT = Path("results/trace")


def trace(
    case: typing.Annotated[str, typer.Argument(metavar="CASE", help="name of a folder in golden_images/")],
    impl: typing.Annotated[str, Opt(help="what is judged: reference, fused or package.module:OPS")] = "fused",
    against: typing.Annotated[str, Opt(help="what it is shown beside")] = "reference",
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "float32",
    tiles: typing.Annotated[
        Path | None, Opt(metavar="FOLDER", help="tile files that a fused --impl asks first")
    ] = None,
    runs: typing.Annotated[int, Opt(min=1, help="reordered runs that the limits are measured on")] = 8,
    out: typing.Annotated[Path, Opt(metavar="DIR", help="where the curves go")] = OUT,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write every figure as JSON")] = None,
) -> None:
    """Name the first step, layer, op, expert and branch at which an implementation leaves its measured limits.

    Truth is the reference in a wider dtype. Exit code 0 for identical or compatible with reordering, 1 for outside, 4
    for not measured.
    """
    from rich.console import Console

    from benchmarks.harness.environment import repository_root
    from benchmarks.harness.golden_case import GOLDENS, read_cases
    from benchmarks.harness.records import write_atomic, write_json
    from benchmarks.harness.trace import Subject
    from benchmarks.harness.trace import trace as measure
    from benchmarks.harness.trace_plot import png
    from benchmarks.harness.trace_runs import Bench
    from motbench.implementation import one_thread_on_a_cpu, resolve

    ops, place, precision = resolve(impl, device, dtype, tiles)
    other, _, _ = resolve(against, device, dtype)
    one_thread_on_a_cpu(place)
    (one,) = read_cases(repository_root() / GOLDENS, [case])
    with Console(stderr=True).status(f"tracing {case}"):
        found = measure(Bench(one, place, precision), Subject(impl, ops), Subject(against, other), runs)
    picture = out / f"{'-'.join((case, impl, 'against', against, dtype)).replace(':', '.')}.png"
    write_atomic(picture, png(found))
    if json is not None:
        write_json(json, found)
    print(_table(found))
    again = f"{found.reproduce}{f' --tiles {shlex.quote(str(tiles))}' if tiles else ''}"
    print(f"\n{case} {impl} against {against}: {found.sentence}\n  look at {picture}\n  type    {again}")
    raise typer.Exit(EXITS[found.verdict])


EXITS = {
    "identical": Exit.PASS,
    "compatible with reordering": Exit.PASS,
    "outside": Exit.REGRESSED,
    "not measured": Exit.NOT_MEASURED,
}


def _table(found: Trace) -> str:
    """One line per update: local and free-running errors beside their limits, and the gain."""
    lines = [f"{'step':>4}  {'local v':>8} {'limit':>8}  {'free x':>8} {'limit':>8}  {'gain':>5}  {'between':>8}"]
    for error, between in zip(found.steps["impl"], found.between, strict=False):
        gain = "" if error.gain != error.gain else f"{error.gain:.2f}"
        local, free = (error.local_v, error.limit_local_v), (error.free_x, error.limit_free_x)
        figures = "  ".join(f"{value:8.1e} {limit:8.1e}" for value, limit in (local, free))
        lines.append(f"{error.step:4}  {figures}  {gain:>5}  {between:8.1e}")
    return "\n".join(lines)
