"""Where the time of one picture goes: seconds per stage, told apart by a probe that watches the tensors go by.

A stage ends where the first tensor of the next one is seen, denoising with its last velocity. There the device is
waited for, so a stage is right to within one op, and a picture takes a little longer than unwatched.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import typing
from collections.abc import Callable, Sequence

if typing.TYPE_CHECKING:
    from torch import Tensor

    from bagel.probe import Probe, Site

NAMES = {
    "": "preparing",
    "encode": "autoencoder, encoding",
    "vision": "vision tower",
    "vit": "context: picture as seen",
    "latent": "context: picture as encoded",
    "text": "context: text",
    "denoise": "denoising",
}
"""Phases of bagel.probe.Site as people read them; what follows the last velocity is LAST."""
LAST = "autoencoder, decoding"
PICTURES = 3


class Watch:
    """A sink for bagel.probe.Probe that adds up the seconds of each stage."""

    def __init__(self, settle: Callable[[], object]) -> None:
        self._settle = settle
        self._phase = ""
        self._since = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, site: Site, tensor: Tensor) -> None:
        """See one tensor."""
        if site.phase in NAMES and (site.phase != self._phase or site.op == "velocity"):
            self._end(NAMES[self._phase])
            self._phase = site.phase

    def end(self) -> dict[str, float]:
        """Everything after the last velocity belongs to the last stage."""
        self._end(LAST)
        return self.seconds

    def _end(self, stage: str) -> None:
        self._settle()
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now


def of_picture(generate: Callable[..., object], device: str) -> dict[str, float]:
    """Seconds by stage, the median of PICTURES pictures; nothing at a commit whose model cannot be watched.

    `generate` is BagelPipeline.generate with its request.
    """
    try:
        from bagel.probe import Probe
    except ImportError:
        return {}
    runs = []
    for _ in range(PICTURES):
        watch = Watch(_settle(device))
        generate(_outside(Probe(watch)))
        runs.append(watch.end())
    return medians(runs)


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median seconds of every name that any picture has, in the order of their first appearance.

    Every picture was watched from beginning to end: one that lacks a name spent no time in it.
    """
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: statistics.median(run.get(name, 0.0) for run in runs) for name in names}


def _outside(probe: Probe) -> Probe:
    """The probe, which leaves the inside of passes alone; at a commit that cannot tell, it looks there too."""
    knows = any(field.name == "inside" for field in dataclasses.fields(probe))
    return dataclasses.replace(probe, inside=False) if knows else probe


def _settle(device: str) -> Callable[[], object]:
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize
