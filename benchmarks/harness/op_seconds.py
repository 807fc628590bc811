"""How much of one picture each op of the contract takes, told by ops that look at the clock before and after.

What the ops do not account for is everything else: embeddings, the autoencoder, the vision tower, Python and launches.
On a GPU the seconds are the device's own, between two events.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import typing
from collections.abc import Callable
from typing import Any

from benchmarks.harness.stages import medians

if typing.TYPE_CHECKING:
    from reference_impl.contract import MoTOps

PICTURES = 3
NO_OPS = ("name", "describe_tile")


class Ledger:
    """Seconds by op of the calls made so far; a call inside another one belongs to the outer one."""

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._inside = False
        self._spans: list[tuple[str, Any, Any]] = []

    def watching(self, ops: MoTOps) -> MoTOps:
        """The same ops, entered here whenever they are called."""
        names = [field.name for field in dataclasses.fields(ops) if field.name not in NO_OPS]
        watched: dict[str, Any] = {name: self._entered(name, getattr(ops, name)) for name in names}
        return dataclasses.replace(ops, **watched)

    def seconds(self) -> dict[str, float]:
        """What was entered, and forget it; the device is waited for."""
        if self._on_gpu:
            import torch

            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for name, begin, end in self._spans:
            took = begin.elapsed_time(end) * 1e-3 if self._on_gpu else end - begin
            found[name] = found.get(name, 0.0) + took
        self._spans.clear()
        return found

    def _entered(self, name: str, op: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(op)
        def call(*arguments: Any) -> Any:
            if self._inside:
                return op(*arguments)
            self._inside, begin = True, self._now()
            try:
                return op(*arguments)
            finally:
                self._inside = False
                self._spans.append((name, begin, self._now()))

        return call

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        import torch

        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def of_picture(make: Callable[[MoTOps], Callable[[], object]], ops: MoTOps, device: str) -> dict[str, float]:
    """Seconds by op, the median of PICTURES pictures after one that does not count.

    make(ops) returns what makes a picture with these ops.
    """
    ledger = Ledger(device != "cpu")
    generate = make(ledger.watching(ops))
    runs = []
    for _ in range(PICTURES + 1):
        generate()
        runs.append(ledger.seconds())
    return medians(runs[1:])
