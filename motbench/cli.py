"""Entry point: collects the commands. A command's file may import only the standard library and typer at its top."""

import sys

import typer

from motbench.doctor import doctor
from motbench.exits import guarded
from motbench.generate import generate
from motbench.parity import parity
from motbench.report import report
from motbench.understand import understand

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.callback()(lambda: None)  # without a callback, a single command would lose its name
app.command("doctor")(doctor)
app.command("generate")(generate)
app.command("parity")(parity)
app.command("understand")(understand)
app.command("report")(report)


def main() -> None:
    """Run `motbench` and leave with its exit code."""
    sys.exit(guarded(lambda: app()))
