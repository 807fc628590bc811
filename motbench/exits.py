"""Exit codes, and how an exception becomes one line and a code."""

import enum
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

REFUSALS = (ValueError, TypeError, NotImplementedError, OSError)
"""What the door raises for bad input."""


class Exit(enum.IntEnum):
    """The same everywhere; make itself can only return 0 or 2, so it prints the code."""

    PASS = 0
    REGRESSED = 1
    BAD_INPUT = 2
    INCONCLUSIVE = 3
    NOT_MEASURED = 4
    INTERNAL = 5


def guarded(run: Callable[[], None]) -> int:
    """Run a command; one line on stderr instead of a traceback.

    REFUSALS are what the door raises for bad input: code 2. Anything else is our fault: code 5, and the traceback is
    kept in a file for the bug report.
    """
    try:
        run()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else (Exit.PASS if exit_.code is None else Exit.BAD_INPUT)
    except KeyboardInterrupt:
        print("motbench: interrupted; what was recorded so far is kept", file=sys.stderr)
        return 130
    except REFUSALS as error:
        print(f"motbench: {' '.join(_said(error).split())}", file=sys.stderr)
        return Exit.BAD_INPUT
    except Exception as error:
        return internal(error)
    return Exit.PASS


def _said(error: Exception) -> str:
    """The error's own words; of the system's, which know no cure, `FILE: no such file or directory; check the path`."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}; check the path"
    return str(error)


def internal(error: Exception, folder: Path | None = None) -> Exit:
    """Say what broke in one line and keep the traceback in `folder`, or in the temporary one."""
    message = f"motbench: internal error: {type(error).__name__}: {' '.join(str(error).split())}"
    print(f"{message}; the traceback is in {keep_traceback(error, folder)}", file=sys.stderr)
    return Exit.INTERNAL


def keep_traceback(error: Exception, folder: Path | None = None) -> str:
    """The path of a new file in `folder`, or in the temporary one, that holds the traceback."""
    with tempfile.NamedTemporaryFile("w", prefix="traceback-", suffix=".txt", dir=folder, delete=False) as log:
        traceback.print_exception(error, file=log)
    return log.name
