"""`motbench doctor`: is this machine fit to run the main job?"""

from __future__ import annotations

import typing
from pathlib import Path

import typer

from motbench.exits import Exit


def doctor(
    json: typing.Annotated[Path | None, typer.Option(metavar="FILE", help="also write the checks as JSON")] = None,
) -> None:
    """Look at Python, torch, triton, GPU, asv, git, disk and checkpoint. Exit code 0 if nothing failed, 2 otherwise."""
    from benchmarks.harness import doctor as examination
    from benchmarks.harness import environment, records

    checks = examination.examine(environment.repository_root())
    if json is not None:
        records.write_json(json, checks)
    for line in examination.lines(checks):
        print(line)
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(Exit.BAD_INPUT)
