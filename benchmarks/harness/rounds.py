"""Two commits measured side by side: rounds of processes, one per side, in a balanced order.

asv's own interleaving knows neither pairs nor order, and cannot measure a commit against itself. So the walk is ours;
what runs in a process is the suite's own benchmark, through the overlay of the commit, as asv would run it.

    round 0   base  head  again        every process: one line in timing.jsonl (or failures.jsonl)
    round 1   head  again base
    ...

`again` is the base a second time. What base and again differ by is the machine: a comparison in which nothing changed.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from benchmarks.harness import environment, overlay
from benchmarks.harness.records import Environment, Failure, Series, append_line

Side = Literal["base", "head", "again"]

ORDERS: tuple[tuple[Side, Side, Side], ...] = (
    ("base", "head", "again"),
    ("head", "again", "base"),
    ("again", "base", "head"),
    ("again", "head", "base"),
    ("base", "again", "head"),
    ("head", "base", "again"),
)
"""In six rounds every side stands twice in every place, and follows each other side equally often (Williams)."""

LOOKED_AT: tuple[Side, ...] = ("base", "head")

ABSENT = 4
"""Exit code of a process whose commit does not have what the series needs."""

TIMEOUT_S = 300.0
"""Seconds a process may take; a first compilation on a GPU takes a good part of a minute."""

KEPT_COMMITS = 20


@dataclass(frozen=True)
class Walk:
    """What every process of a comparison needs.

    root         the repository
    records      folder that timing.jsonl and failures.jsonl grow in
    base, head   full hashes
    environment  this machine, looked at once
    """

    root: Path
    records: Path
    base: str
    head: str
    environment: Environment
    timeout_s: float = TIMEOUT_S

    def commit(self, side: Side) -> str:
        """The commit that a side measures."""
        return self.head if side == "head" else self.base

    def export(self, commit: str) -> Path:
        """The folder of a commit, its packages in it. Raises ValueError if git does not know the commit."""
        folder = self.root / ".asv" / "rounds" / commit
        overlay.export(self.root, commit, folder)
        return folder

    def round(self, series: Series, number: int) -> float:
        """Measure one round of one series, a process per side; seconds that it took."""
        started = time.monotonic()
        for order, side in enumerate(ORDERS[number % len(ORDERS)]):
            failed = self._process(series, side, number, order)
            if failed is not None:
                append_line(self.records / "failures.jsonl", failed)
        return time.monotonic() - started

    def look(self, series: Series) -> None:
        """Record what base and head run in a series, a process each, untimed: looks.jsonl.

        A side that cannot be looked at has no line, and its rounds will say why.
        """
        for order, side in enumerate(LOOKED_AT):
            self._process(series, side, 0, order, ("look",))

    def _process(
        self, series: Series, side: Side, number: int, order: int, more: tuple[str, ...] = ()
    ) -> Failure | None:
        commit = self.commit(side)
        folder = self.export(commit)
        packages, here = folder / "packages", self.environment
        note = overlay.Overlay(
            commit, str(packages), str(self.records), here.profile, here.fingerprint, number, side, order
        )
        note.write()
        overlay.prune(folder.parent, KEPT_COMMITS)
        # -P: without it the working directory would come before the overlay. The ruler comes from where this file is.
        what = [series.benchmark, json.dumps(series.params), *more]
        command = [sys.executable, "-P", "-m", "benchmarks.harness.rounds", *what]
        try:
            done = subprocess.run(
                command,
                env=_environment(packages, folder, here.profile),
                cwd=self.root,
                capture_output=True,
                text=True,
                timeout=self.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            reason = f"it took longer than {self.timeout_s:.0f} s and was ended"
            return Failure(series.benchmark, series.params, commit, side, number, "timeout", reason)
        if done.returncode == 0:
            return None
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            reason = f"it was killed by {name}" + ("; was there too little memory?" if name == "SIGKILL" else "")
            return Failure(series.benchmark, series.params, commit, side, number, "broken", reason)
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = said[-1] if said else f"it ended with exit code {done.returncode} and said nothing"
        kind: Literal["absent", "broken"] = "absent" if done.returncode == ABSENT else "broken"
        return Failure(series.benchmark, series.params, commit, side, number, kind, reason)


def _environment(packages: Path, folder: Path, profile: str) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = os.pathsep.join([str(packages), str(environment.repository_root())])
    env["TRITON_CACHE_DIR"] = str(folder / "triton")
    return env | ({"TRITON_INTERPRET": "1"} if profile == "cpu" else {})


def main(arguments: Sequence[str]) -> NoReturn:
    """One process: NAME PARAMETERS, and "look" if nothing is to be timed. It records where the overlay says."""
    name, params, looking = arguments[0], json.loads(arguments[1]), "look" in arguments[2:]
    module, _, function = name.partition(".")
    benchmark = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    try:
        benchmark.setup(*params.values())
    except NotImplementedError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(ABSENT)
    (benchmark.look if looking else benchmark)(*params.values())
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
