"""Entry point: collects the commands. A command's file may import only the standard library and typer at its top."""

import sys
from pathlib import Path

import typer

from motbench.bisect import bisect
from motbench.compare import compare
from motbench.doctor import doctor
from motbench.exits import guarded
from motbench.gate import gate
from motbench.generate import generate
from motbench.golden import golden
from motbench.merge import merge
from motbench.nightly import nightly
from motbench.notify import notify
from motbench.ops import ops
from motbench.parity import parity
from motbench.picture_time import picture_time
from motbench.quantise import quantise
from motbench.report import report
from motbench.roofline import roofline
from motbench.serve import serve
from motbench.serve_bench import serve_bench
from motbench.step_time import step_time
from motbench.steps import step
from motbench.synthesize import synthesize
from motbench.trace import trace
from motbench.trend import trend
from motbench.tune import tune
from motbench.understand import understand

HELP = """Are today's fused image-model kernels right, and how fast are they?

Exit codes: 0 pass, 1 regressed, 2 bad input, 3 inconclusive, 4 not measured, 5 internal error."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)
app.callback()(lambda: None)  # without a callback, a single command would lose its name
app.command("nightly")(nightly)
app.command("step", hidden=True)(step)
app.command("compare")(compare)
app.command("gate")(gate)
app.command("trend")(trend)
app.command("bisect")(bisect)
app.command("merge")(merge)
app.command("notify")(notify)
app.command("doctor")(doctor)
app.command("generate")(generate)
app.command("parity")(parity)
app.command("ops")(ops)
app.add_typer(golden, name="golden")
app.command("trace")(trace)
app.command("understand")(understand)
app.command("report")(report)
app.command("roofline")(roofline)
app.command("step-time")(step_time)
app.command("picture-time")(picture_time)
app.command("synthesize")(synthesize)
app.command("quantise")(quantise)
app.command("tune")(tune)
app.command("serve")(serve)
app.command("serve-bench")(serve_bench)


def main() -> None:
    """Run `motbench` and leave with its exit code."""
    sys.exit(guarded(_run))


def _run() -> None:
    _refuse_another_clone(Path.cwd())
    app()


def _refuse_another_clone(folder: Path) -> None:
    """A motbench installed from one clone would judge that one, though it is typed in another: a false green."""
    mine = Path(__file__).resolve().parents[1]
    here = next((root for root in (folder, *folder.parents) if (root / "motbench" / "cli.py").is_file()), mine)
    if here.resolve() != mine:
        raise ValueError(f"this motbench is {mine}'s but you are in {here}; run `make install` there and use its .venv")
