"""`motbench tune`: measure which tiles are fastest on this GPU, and write them where `--tiles` finds them."""

from __future__ import annotations

import os
import shlex
import typing
from collections.abc import Sequence
from pathlib import Path

import typer

from motbench.exits import Exit

if typing.TYPE_CHECKING:
    from benchmarks.harness.tuner_points import Point

Opt = typer.Option
DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fp8": "fp8",
    "int8": "int8",
}


def tune(
    model: typing.Annotated[str, Opt(metavar="DIR|bagel-7b", help="a checkpoint folder, or BAGEL's own widths")],
    dtype: typing.Annotated[str, Opt(help="bf16, fp16, or experts in fp8 or int8 beside rows in bf16")],
    tp: typing.Annotated[int, Opt(min=1, metavar="N", help="ranks of tensor parallel")] = 1,
    ops: typing.Annotated[str, Opt(metavar="LAYER,...", help="which layers")] = "qkv,o,gate_up,down",
    shapes: typing.Annotated[str, Opt(metavar="ROWS:TEXT,...", help="numbers of rows; empty: the usual")] = "",
    minutes: typing.Annotated[float | None, Opt(metavar="N", help="stop then; typed again, it goes on")] = None,
    out: typing.Annotated[Path, Opt(metavar="FOLDER", help="tile file, journal and comparison")] = Path(
        "results/tiles"
    ),
    device: typing.Annotated[str, Opt(help="cuda: all GPUs of the first one's kind; cpu: to try it out")] = "cuda",
    seed: typing.Annotated[int, Opt(help="of the data")] = 0,
    compile_only: typing.Annotated[bool, Opt(help="list what the compiler makes of each tile; needs no GPU")] = False,
    capability: typing.Annotated[int, Opt(help="with --compile-only: 80, 90 or 100")] = 90,
) -> None:
    """Choose tiles for a model's routed layers by measurement, each proven to agree with the reference.

    Typed again it goes on where it stopped. Exit code 4 if a point has not been measured.
    """
    precision = _precision(dtype)
    if minutes is not None and minutes <= 0:
        raise ValueError(f"minutes is {minutes} but must be positive; leave --minutes out for no limit")
    if device == "cpu" and precision != "float16" and not compile_only:
        raise ValueError(f"dtype {dtype} on a CPU: Triton's interpreter computes it wrongly; use fp16 there, or a GPU")
    if compile_only:
        os.environ.pop("TRITON_INTERPRET", None)
        _list_candidates(_points(model, ops, shapes, tp), precision, capability)
        return
    from motbench.implementation import KINDS, place_of

    place_of(device, "bfloat16" if precision in KINDS else precision)
    found = _points(model, ops, shapes, tp)
    missing = _tune(found, precision, _devices(device), out, seed, minutes, _command(locals()))
    if missing:
        print(f"not measured: {', '.join(point.name for point in missing)}; type it again to go on")
    raise typer.Exit(Exit.NOT_MEASURED if missing else Exit.PASS)


def _tune(
    points: Sequence[Point],
    dtype: str,
    devices: tuple[str, ...],
    out: Path,
    seed: int,
    minutes: float | None,
    command: str,
) -> list[Point]:
    """Measure with progress on this terminal; the points that are not measured in the end."""
    import torch
    from rich.console import Console

    from benchmarks.harness.environment import made_by
    from benchmarks.harness.tuner import Budget, Tuner
    from benchmarks.harness.tuner_journal import Run, hash_of_kernels

    name = torch.cuda.get_device_name(devices[0]) if devices[0] != "cpu" else "cpu"
    run = Run(name, dtype, hash_of_kernels(), made_by(command, seed))
    budget = Budget() if minutes is None else Budget(60 * minutes)
    console = Console(stderr=True)
    with console.status("starting") as status:
        tuner = Tuner(run, devices, out, budget, lambda line: print(line, flush=True), status.update)
        missing = tuner.tune(points)
    _say_what_to_do(out, name)
    return missing


def _say_what_to_do(out: Path, device: str) -> None:
    from mot_impl.tiles import file_name

    table = out / f"{file_name(device)}.json"
    if table.is_file():
        print("\n".join(table.with_suffix(".md").read_text().splitlines()[2:]))
        print(f"tile file: {table}; use it: --tiles {out}; ship it: cp {table} mot_impl/tuned/")


def _precision(dtype: str) -> str:
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} has no tuned tiles; use bf16, fp16, fp8 or int8")
    return DTYPES[dtype]


def _points(model: str, ops: str, shapes: str, ranks: int) -> list[Point]:
    from benchmarks.harness.tuner_points import ROWS, points, widths

    rows = [part.strip() for part in shapes.split(",")] if shapes else ROWS
    return points(widths(model), [part.strip() for part in ops.split(",")], rows, ranks)


def _devices(device: str) -> tuple[str, ...]:
    """Every GPU that goes by the name of the first: one tile file is of one kind of device."""
    if device == "cpu":
        return ("cpu",)
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return tuple(f"cuda:{index}" for index, name in enumerate(names) if name == names[0])


def _command(options: dict[str, typing.Any]) -> str:
    """What a person would type to repeat it, options in their own order."""
    names = ("model", "dtype", "tp", "ops", "shapes", "minutes", "device", "seed")
    given = [f"--{name} {shlex.quote(str(options[name]))}" for name in names if options[name] not in (None, "")]
    return f"motbench tune {' '.join(given)}"


def _list_candidates(points: Sequence[Point], precision: str, capability: int) -> None:
    """One line per point and tile: what it takes, and whether it would be measured."""
    from rich.console import Console

    from benchmarks.harness.tuner import Budget, compiled, plans, task
    from benchmarks.harness.tuner_candidates import CHIPS, at_once
    from benchmarks.harness.tuner_journal import Build
    from benchmarks.harness.tuner_points import PRECISIONS

    if capability not in CHIPS:
        raise ValueError(f"capability {capability} is not one of {', '.join(map(str, CHIPS))}")
    chip = CHIPS[capability]
    made, jobs = plans(points, precision, chip)
    builds: dict[str, Build] = {}
    with Console(stderr=True).status("compiling") as status:
        for done, total in compiled(jobs, builds, Budget(), lambda build: None):
            status.update(f"compiled {done} of {total} kernels")
    for plan in made:
        print(plan.point.name)
        kept = task(plan, builds, chip, PRECISIONS[precision])
        reasons = {entrant.tile: entrant.reason for entrant in kept.left_out}
        for tile, name in zip(plan.tiles, plan.variants, strict=True):
            found = builds[name].compiled
            takes = ""
            if found is not None:
                takes = f"{found.registers} registers, {found.shared_bytes} bytes, {at_once(found, chip)} at once"
            print(f"  {'left out' if tile in reasons else 'measured':9} {tile!s:30} {takes}  {reasons.get(tile, '')}")
