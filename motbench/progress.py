"""How far a long call has come, on stderr of a terminal; nothing where nobody looks."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager

if typing.TYPE_CHECKING:
    from torch import Tensor

    from bagel.probe import Probe, Site

STEPS = {"denoise": "x", "decode": "logits"}
"""The op that is seen once per step of a phase."""


@contextmanager
def watched(doing: str, totals: dict[str, int]) -> Iterator[Probe]:
    """A probe that moves a bar per phase: totals maps "denoise" or "decode" to how many steps it has at most."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bagel.probe import Probe

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {phase: bars.add_task(f"{doing}: {phase}", total=total) for phase, total in totals.items()}

        def advance(site: Site, tensor: Tensor) -> None:
            if site.phase in tasks and site.op == STEPS[site.phase]:
                bars.advance(tasks[site.phase])

        yield Probe(advance, inside=False)


@contextmanager
def transferred(doing: str) -> Iterator[Callable[[int, int], None]]:
    """What is to be told, again and again, how many bytes of how many have been read or written."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    shown = console.is_terminal
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not shown) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
