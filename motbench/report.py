"""`motbench report`: run records and asv results become a folder of HTML and one screen of text."""

from __future__ import annotations

import typing
from pathlib import Path

import typer


def report(
    results: typing.Annotated[Path, typer.Option(help="folder with runs/ and asv/")] = Path("results"),
    out: typing.Annotated[Path | None, typer.Option(help="where the report goes; default: RESULTS/site")] = None,
) -> None:
    """Write the report of everything recorded and leave with the newest run's exit code. Loads no torch.

    asv's own site is built beside it where there are asv results.
    """
    from benchmarks.harness import asv_runner, environment
    from benchmarks.harness.records import EXIT_CODES
    from motbench import summary
    from reports import site, verdict

    if not results.is_dir():
        raise ValueError(f"results folder {results} does not exist; run `make nightly`, or name one with --results")
    missing = asv_runner.publish(environment.repository_root(), results)
    index = site.build(results, out or results / "site")
    judged = verdict.latest(results)
    print(summary.text(judged))
    print(f"\nreport: {index.resolve()}" + (f"\nasv's own site is not beside it: {missing}" if missing else ""))
    raise typer.Exit(EXIT_CODES[judged.status])
