"""`motbench golden replay`: public incidents, by the rule of ten pixels and by ours."""

from __future__ import annotations

import typing
from pathlib import Path

import typer

from motbench.exits import Exit
from motbench.golden.common import goldens_folder, plan_of

Opt = typer.Option


def replay(
    case: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this case; may be repeated")] = None,
    impl: typing.Annotated[str, Opt(help="reference, fused or package.module:OPS")] = "reference",
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "float32",
    out: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write the tables as Markdown")] = None,
) -> None:
    """Eight public incidents of BAGEL's picture tests: their deviations, and the known causes re-enacted on our cases.

    Exit code 0 if our gate sees every re-enacted bug on every case and passes what is none, 1 if not.
    """
    from rich.console import Console

    from benchmarks.harness import goldens, history, records, stack
    from benchmarks.harness.golden_case import read_cases

    plan = plan_of(impl, device, dtype)
    cases = read_cases(goldens_folder(), case)
    found: list[history.Replayed] = []
    with Console(stderr=True).status("replaying") as status:
        for one in cases if case else goldens.selected(cases, impl, plan.device):
            status.update(f"replaying on {one.name}")
            found += history.replay(one.on(stack.here(plan.device)), plan)
    text = history.markdown(found)
    print(text, end="")
    if out is not None:
        records.write_atomic(out, text.encode())
    wrong = [f"{one.name} ({one.case})" for one in found if one.ours is not history.is_bug(one.name)]
    named = f"; wrong: {', '.join(wrong)}" if wrong else ""
    print(f"\n{len(found) - len(wrong)} of {len(found)} told right{named}")
    raise typer.Exit(Exit.REGRESSED if wrong else Exit.PASS)
