"""Seeing the tensors inside the model, without the model knowing who looks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reference_impl.contract import QuantisedRows, Rows, upcast


@dataclass(frozen=True)
class Site:
    """Where a tensor was seen.

    phase   "text", "vit" or "latent" (a pass that extends a context), "context" (the finished context's keys and
            values), "denoise", "decode" (greedy text), "encode" (the autoencoder) or "vision" (the eye)
    op      what it is: "qkv", "attention", "velocity", ...
    branch  which context: "main", "no_text" or "no_image"
    step    update of the sampler, or token of greedy decoding; None outside both
    layer   decoder layer; None outside the layers
    """

    phase: str
    op: str
    branch: str = "main"
    step: int | None = None
    layer: int | None = None


@dataclass(frozen=True)
class Probe:
    """Hands intermediate tensors to `sink`. They are the model's own: a sink must not write to them.

    `probe.at(step=3, layer=0)("qkv", tensor)` calls `sink(Site(phase, "qkv", branch, 3, 0), tensor)`.

    inside  whether the sink wants what lies inside a denoising pass, not just x, t and velocities; without that, passes
            are as fast as unseen
    """

    sink: Callable[[Site, Tensor], None] | None = None
    site: Site = Site("", "")
    inside: bool = True

    @property
    def looks_inside(self) -> bool:
        """Whether anybody must be shown the inside of denoising passes."""
        return self.sink is not None and self.inside

    def at(
        self,
        *,
        phase: str | None = None,
        branch: str | None = None,
        step: int | None = None,
        layer: int | None = None,
    ) -> "Probe":
        """The same probe at a narrower place; what is not named stays."""
        if self.sink is None:
            return self
        here = self.site
        site = Site(
            phase=here.phase if phase is None else phase,
            op=here.op,
            branch=here.branch if branch is None else branch,
            step=here.step if step is None else step,
            layer=here.layer if layer is None else layer,
        )
        return replace(self, site=site)

    def __call__(self, op: str, tensor: Rows) -> None:
        """Show one tensor."""
        if self.sink is not None:
            self.sink(replace(self.site, op=op), plain(tensor))


QUIET = Probe()
"""Nobody looks."""


def plain(rows: Rows) -> Tensor:
    """What rows stand for, in the dtype of results."""
    return upcast(rows, torch.float32).to(rows.dtype) if isinstance(rows, QuantisedRows) else rows
