"""Problem sizes by name: BAGEL-7B-MoT's own, and small twins for a CPU."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

LAYERS = ("qkv", "o", "gate_up", "down")
"""The routed linear layers of one decoder layer, in the order in which they run."""


@dataclass(frozen=True)
class Shape:
    """The widths of one decoder layer, and a sequence through it.

    m, n_text                      rows, and how many of them belong to the text expert
    hidden                         width of a row
    n_heads, n_kv_heads, head_dim  query heads, key/value heads, and the width of each
    intermediate                   width inside the gated MLP

    Raises ValueError if more rows are text than there are.
    """

    m: int
    n_text: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate: int

    def __post_init__(self) -> None:
        if not 0 <= self.n_text <= self.m:
            raise ValueError(f"shape has n_text={self.n_text} but m={self.m} rows; n_text must lie in 0..{self.m}")

    @property
    def qkv_width(self) -> int:
        """(H + 2G) * d."""
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim

    def layer(self, name: str) -> tuple[int, int]:
        """(N, K) of the linear layer `name`. Raises ValueError for a name that is not in LAYERS."""
        sizes = {
            "qkv": (self.qkv_width, self.hidden),
            "o": (self.hidden, self.n_heads * self.head_dim),
            "gate_up": (2 * self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }
        if name not in sizes:
            raise ValueError(f"layer {name!r} is not one of {', '.join(LAYERS)}")
        return sizes[name]

    def rows(self, m: int, n_text: int) -> Shape:
        """The same widths with another sequence."""
        return dataclasses.replace(self, m=m, n_text=n_text)


BAGEL = Shape(1026, 2, hidden=3584, n_heads=28, n_kv_heads=4, head_dim=128, intermediate=18944)
"""One 512x512 image and its two text rows. Source: llm_config.json of BAGEL-7B-MoT."""

SMALL = Shape(66, 2, hidden=256, n_heads=4, n_kv_heads=2, head_dim=64, intermediate=512)
"""A twin that a CPU runs in milliseconds; every width is a power of two, as a kernel likes it."""

ODD = Shape(66, 2, hidden=120, n_heads=5, n_kv_heads=1, head_dim=24, intermediate=328)
"""A twin whose widths are multiples of no tile: every mask of a kernel is needed."""

SHAPES = {
    "small": SMALL,
    "1026": BAGEL,
    "4098": BAGEL.rows(4098, 2),
    "8208": BAGEL.rows(8208, 16),
}
"""By the suite's names: a small one, and BAGEL with one 512x512 image, one 1024x1024 image, eight 512x512 images."""
