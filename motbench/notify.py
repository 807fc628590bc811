"""`motbench notify COMMAND`: hand tonight's verdict to a command of yours, as JSON on its standard input."""

from __future__ import annotations

import json
import subprocess
import typing
from pathlib import Path
from typing import Any

import typer

LIMIT_S = 60


def notify(
    command: typing.Annotated[list[str], typer.Argument(help="the command and its arguments; no shell in between")],
    results: typing.Annotated[Path, typer.Option(help="whose newest verdict and trend are sent")] = Path("results"),
    always: typing.Annotated[bool, typer.Option("--always", help="also when everything passed")] = False,
    url: typing.Annotated[str, typer.Option(help="where the report can be read; part of what is sent")] = "",
) -> None:
    """Run COMMAND with {"status", "sentence", "commit", "run", "trend", "url"} on its standard input.

    Nothing is sent of a night that passed and a trend that stands still. Raises ValueError if the command fails.
    """
    told = message(results, url)
    if told["status"] in ("pass", "improved") and not always:
        print(f"{told['status']}: nothing to tell")
        return
    data = json.dumps(told, indent=1)
    try:
        done = subprocess.run(command, input=data, text=True, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{command[0]} did not end within {LIMIT_S} s; the verdict was not delivered") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or "nothing"
        raise ValueError(f"{command[0]} ended with {done.returncode} and said {said}; the verdict was not delivered")
    print(f"{told['status']}: told {command[0]}")


def message(results: Path, url: str = "") -> dict[str, Any]:
    """What is sent: the worse of the newest run's verdict and the trend decides the status."""
    from benchmarks.harness.records import read_json
    from reports import verdict
    from reports.item import SEVERITY
    from reports.trend import FILE, Trend

    run = verdict.latest(results)
    trend = read_json(results / FILE, Trend) if (results / FILE).exists() else None
    worse = trend if trend and SEVERITY.index(trend.status) > SEVERITY.index(run.status) else run
    standing = [event for event in trend.events if event.standing] if trend else []
    return {
        "status": worse.status,
        "sentence": worse.sentence,
        "commit": trend.head if trend else run.run_id.rpartition("-")[2],
        "run": {"id": run.run_id, "status": run.status, "sentence": run.sentence},
        "trend": {
            "status": trend.status if trend else "not-measured",
            "sentence": trend.sentence if trend else "no history has been judged",
            "standing": [
                {
                    "what": event.kind,
                    "series": event.series.label,
                    "ratio": event.ratio if event.ratio == event.ratio else None,
                    "certainty": event.certainty,
                    "suspects": [f"{commit.hash[:10]} {commit.subject}" for commit in event.suspects],
                    "reproduce": event.reproduce,
                }
                for event in standing
            ],
        },
        "url": url,
    }
