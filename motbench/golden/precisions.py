"""`motbench golden precisions`: what half precision and quantised layers cost in pictures, in one table."""

from __future__ import annotations

import typing
from pathlib import Path

import typer

from motbench.golden.common import goldens_folder, plan_of

Opt = typer.Option


def precisions(
    case: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this case; may be repeated")] = None,
    impl: typing.Annotated[str, Opt(help="reference, fused or package.module:OPS")] = "reference",
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "bfloat16",
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write every picture's metrics")] = None,
) -> None:
    """Make the golden pictures in DTYPE, and with linear layers in fp8 and int8, and hold each against float32.

    Nothing is judged: `check --quantise` does that.
    """
    from rich.console import Console

    from benchmarks.harness import environment, golden_precisions, records
    from benchmarks.harness.golden_case import read_cases

    cases, plans = read_cases(goldens_folder(), case), golden_precisions.beside(plan_of(impl, device, dtype))
    words = ["motbench golden precisions", f"--impl {impl} --device {device} --dtype {dtype}"]
    provenance = environment.made_by(" ".join(words + [f"--case {one}" for one in case or []]))
    found: list[golden_precisions.Cost] = []
    with Console(stderr=True).status("making pictures") as status:
        for one in golden_precisions.costs(cases, plans):
            found.append(one)
            status.update(f"made {one.case} in {one.precision}")
            if json is not None:
                records.write_json(json, golden_precisions.Costs(provenance, impl, device, found))
    print("\n".join(golden_precisions.table(found)))
    for one in found:
        if one.error:
            print(f"{one.case} in {one.precision}: {one.error}")
