"""Compile many kernels at once, in processes of their own: no GPU is needed, and a compiler that dies does so alone.

Nothing of mot_impl is imported at the top: that import decides whether a process compiles kernels or interprets them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.harness.impls import said

if typing.TYPE_CHECKING:
    from mot_impl.compiled import Compiled
    from mot_impl.tiles import Tile
    from reference_impl.contract import Problem

STALL_S = 60.0
"""Without a result for so long, what is still out is taken to have died with its process."""


@dataclass(frozen=True)
class Job:
    """One kernel to compile; `variant` is its name (mot_impl.compiled.variant)."""

    variant: str
    problem: Problem
    tile: Tile
    bias: bool
    capability: int


@dataclass(frozen=True)
class Built:
    """What became of a job: `compiled`, or why not."""

    variant: str
    compiled: Compiled | None
    error: str = ""


def compile_all(jobs: Sequence[Job], processes: int, limit_s: float = float("inf")) -> Iterator[Built]:
    """Every job's outcome, as they come; what has not come after limit_s seconds, or for STALL_S, is an error too."""
    import time

    end = time.monotonic() + limit_s
    waiting = {job.variant for job in jobs}
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(processes, len(jobs)), initializer=_compiling) as pool:
        results = pool.imap_unordered(_build, jobs)
        while waiting:
            try:
                built = results.next(timeout=max(0.0, min(STALL_S, end - time.monotonic())))
            except multiprocessing.TimeoutError:
                why = "no time was left to compile it" if time.monotonic() >= end else "the compiler did not come back"
                yield from (Built(variant, None, why) for variant in sorted(waiting))
                return
            waiting.discard(built.variant)
            yield built


def _compiling() -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us


def _build(job: Job) -> Built:
    from mot_impl.compiled import compile_tile

    try:
        return Built(job.variant, compile_tile(job.problem, job.tile, job.bias, job.capability))
    except Exception as error:  # a compiler may raise anything; the tile is left out and says why
        return Built(job.variant, None, said(error))
