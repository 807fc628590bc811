"""`motbench golden`: judge pictures against approved ones, approve new ones, list them. One file per subcommand."""

import typer

from motbench.golden.accept import accept
from motbench.golden.calibrate import calibrate
from motbench.golden.check import check
from motbench.golden.listing import list_cases
from motbench.golden.metrics import metrics
from motbench.golden.precisions import precisions
from motbench.golden.replay import replay
from motbench.golden.selftest import selftest

HELP = "Judge pictures against approved ones, approve new ones, list them."

golden = typer.Typer(no_args_is_help=True, add_completion=False, help=HELP)
golden.command("check")(check)
golden.command("accept")(accept)
golden.command("calibrate")(calibrate)
golden.command("list")(list_cases)
golden.command("metrics")(metrics)
golden.command("precisions")(precisions)
golden.command("selftest")(selftest)
golden.command("replay")(replay)
