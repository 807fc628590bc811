"""Which guidance branches are denoised together, and where their rows lie.

A *pass* denoises one picture behind one context; a guided picture needs two or three of them. The passes of an update
share every layer but attention: there each sees its own context and itself, and nothing of any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from bagel.latents import Grid
from bagel.layers import Block
from bagel.parallel import Share
from bagel.probe import Probe, plain
from bagel.transformer import Context, Transformer
from reference_impl.contract import Rotary, Route, Rows


class Pass(NamedTuple):
    """One picture denoised behind one context.

    picture    which of the batch's pictures
    n_context  rows of the context
    position   rotary position that all rows of the pass share
    """

    picture: int
    n_context: int
    position: int


class Batch(NamedTuple):
    """What is denoised together: the pictures' grids and the passes. Equal batches can use the same buffers."""

    grids: tuple[Grid, ...]
    passes: tuple[Pass, ...]

    @classmethod
    def of(cls, grids: Sequence[Grid], contexts: Sequence[Sequence[Context]]) -> "Batch":
        """`contexts[picture]` lists what its passes are behind; passes are numbered in that order."""
        passes = [Pass(i, one.n_rows, one.position) for i, behind in enumerate(contexts) for one in behind]
        return cls(tuple(grids), tuple(passes))

    def tokens(self, index: int) -> int:
        """Image tokens of a pass."""
        return self.grids[self.passes[index].picture].n_tokens

    def cache_rows(self, index: int) -> slice:
        """The rows of the cache that a pass sees: its context, then its own [tokens, start, end]."""
        lengths = [one.n_context + self.tokens(i) + 2 for i, one in enumerate(self.passes)]
        start = sum(lengths[:index])
        return slice(start, start + lengths[index])

    def own_rows(self, index: int) -> slice:
        """The last of them: those of the pass itself."""
        stop = self.cache_rows(index).stop
        return slice(stop - self.tokens(index) - 2, stop)


@dataclass(frozen=True)
class Span:
    """Where the rows of one pass lie among those that are computed together: its image rows, and its two markers."""

    image: slice
    text: slice

    def of(self, tensor: Tensor) -> Tensor:
        """Its rows of a tensor: [tokens, start, end]; a view if the rows are together."""
        if self.image.stop == self.text.start:
            return tensor[self.image.start : self.text.stop]
        return torch.cat([tensor[self.image], tensor[self.text]])


@dataclass(frozen=True)
class Plan:
    """Some passes of a batch as one sequence: the image rows of all of them, then their markers, [start, end] each.

    passes  which
    block   its rows; those of other ranks aside, `block.own`
    spans   per pass, its rows among those of `block.own`
    causal  per pass, whether a row sees only those before it; never, but for a fault that tests inject
    target  where keys and values of all rows are kept in the cache
    """

    passes: tuple[int, ...]
    block: Block
    spans: tuple[Span, ...]
    causal: tuple[bool, ...]
    target: slice | Tensor

    @classmethod
    def of(cls, transformer: Transformer, batch: Batch, passes: tuple[int, ...]) -> "Plan":
        """The plan of these passes, in this order."""
        device = transformer.device
        sizes = [batch.tokens(i) for i in passes]
        blocks = [
            transformer.image_block(n, batch.passes[i].position, latent=True)
            for i, n in zip(passes, sizes, strict=True)
        ]
        rotary = Rotary(*(_sorted([getattr(b.rotary, name) for b in blocks], sizes) for name in ("cos", "sin")))
        route = Route.image_then_text(sum(sizes), 2 * len(passes), device)
        share = Share.of(route, rotary, transformer.parallel, sizes)
        own = sizes if share is None else [len(range(*transformer.parallel.rows(n).indices(n))) for n in sizes]
        rows = [batch.own_rows(i) for i in passes]
        target: slice | Tensor = rows[0]
        if len(passes) > 1:
            target = _sorted([torch.arange(one.start, one.stop) for one in rows], sizes).to(device)
        block = Block(route, rotary, causal=False, advance=1, share=share)
        return cls(passes, block, _spans(own), tuple(b.causal for b in blocks), target)

    @cached_property
    def image_only(self) -> "Plan":
        """The same passes without their markers: what the last layer's output is needed of."""
        own = self.block.own
        n, table = own.route.n_image, own.rotary
        route = Route.image_then_text(n, 0, own.route.rows.device)
        block = replace(own, route=route, rotary=Rotary(table.cos[:n], table.sin[:n]), share=None)
        spans = tuple(Span(span.image, slice(span.image.stop, span.image.stop)) for span in self.spans)
        return replace(self, block=block, spans=spans)

    def joined(self, per_pass: Sequence[Tensor]) -> Tensor:
        """The rows of each pass, [tokens, start, end], as rows of the plan."""
        return _sorted(per_pass, [span.image.stop - span.image.start for span in self.spans])


def _spans(sizes: Sequence[int]) -> tuple[Span, ...]:
    ends = list(accumulate(sizes))
    return tuple(
        Span(slice(end - n, end), slice(ends[-1] + 2 * i, ends[-1] + 2 * i + 2))
        for i, (n, end) in enumerate(zip(sizes, ends, strict=True))
    )


def _sorted(per_pass: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """[tokens, rest] of each pass -> the tokens of all passes, then the rest of all."""
    if len(per_pass) == 1:
        return per_pass[0]
    parts = [one.tensor_split([n]) for one, n in zip(per_pass, sizes, strict=True)]
    return torch.cat([image for image, _ in parts] + [text for _, text in parts])


@dataclass(frozen=True)
class Watch:
    """Shows each pass's rows of a tensor to that pass's probe."""

    probes: tuple[Probe, ...]
    spans: tuple[Span, ...]

    @property
    def looking(self) -> bool:
        """Whether anybody looks."""
        return any(probe.looks_inside for probe in self.probes)

    def at(self, layer: int) -> "Watch":
        """The same in a layer."""
        return replace(self, probes=tuple(probe.at(layer=layer) for probe in self.probes))

    def __call__(self, op: str, tensor: Rows) -> None:
        """Show one tensor."""
        if self.looking:
            whole = plain(tensor)
            self.each(op, [span.of(whole) for span in self.spans])

    def each(self, op: str, per_pass: Sequence[Tensor]) -> None:
        """Show every pass a tensor of its own."""
        for probe, tensor in zip(self.probes, per_pass, strict=True):
            probe(op, tensor)
