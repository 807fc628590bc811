"""A process whose output goes to a file for good and to this terminal as it comes."""

from __future__ import annotations

import codecs
import math
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TICK_S = 0.1
"""Between two looks at the file: often enough for an eye, too seldom to disturb what is measured."""

SAYS = "motbench: "
"""How the command line begins the one line that says what was wrong (motbench/exits.py)."""


def run(
    command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path | None = None, limit_s: float = math.inf
) -> int:
    """Run `command` with stdout and stderr in `log`, shown on our stdout too; its exit code, negative for a signal.

    The file, not a pipe, is what the process writes to: it is whole even if we are killed, and a grandchild that
    outlives the process cannot hold us up. Raises TimeoutError after limit_s seconds, when the process has been ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    decoder, end = codecs.getincrementaldecoder("utf-8")("replace"), time.monotonic() + limit_s
    with (
        log.open("wb") as written,
        log.open("rb") as read,
        subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            while True:
                code = process.poll()
                sys.stdout.write(decoder.decode(read.read(), code is not None))
                sys.stdout.flush()
                if code is not None:
                    return code
                if time.monotonic() > end:
                    raise TimeoutError(f"it took longer than {limit_s:g} s and was ended")
                time.sleep(TICK_S)
        except BaseException:
            process.kill()
            process.wait()  # Popen leaves it unwaited for after a KeyboardInterrupt
            raise


def why(code: int, log: Path) -> str:
    """Why a process ended badly, in one line: the signal that killed it, the last line it said, or its exit code."""
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    text = log.read_text(encoding="utf-8", errors="replace")
    said = [line.removeprefix(SAYS) for line in text.splitlines() if line.startswith(SAYS)]
    return said[-1] if said else f"it ended with exit code {code}; {log.name} holds what it said"
