"""`motbench golden metrics`: what the metrics see of planted faults."""

from __future__ import annotations

import typing
from pathlib import Path

import typer

from motbench.exits import Exit

Opt = typer.Option


def metrics(
    out: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write the tables as Markdown")] = None,
) -> None:
    """Nine faults and two harmless changes of three photographs: what our metrics see, beside other projects' gates.

    Exit code 0 if ours catch every fault without a false alarm, 1 otherwise.
    """
    from rich.console import Console

    from benchmarks.harness import picture_faults, records

    results = []
    with Console(stderr=True).status("judging") as status:
        for result in picture_faults.judge_all(picture_faults.subjects()):
            results.append(result)
            status.update(f"judging {result.subject}: {len(results)} changes done")
    text = picture_faults.markdown(results)
    print(text, end="")
    if out is not None:
        records.write_atomic(out, text.encode())
    wrong = [f"{result.change.name} ({result.subject})" for result in results if not result.right]
    named = f"; wrong: {', '.join(wrong)}" if wrong else ""
    print(f"\n{len(results) - len(wrong)} of {len(results)} told right{named}")
    raise typer.Exit(Exit.REGRESSED if wrong else Exit.PASS)
