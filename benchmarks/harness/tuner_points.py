"""What `motbench tune` chooses tiles for: the routed layers of a model, at some numbers of rows."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.shapes import BAGEL, LAYERS, Shape

if typing.TYPE_CHECKING:
    import torch

    from reference_impl.contract import Kind, Problem

BAGEL_7B = "bagel-7b"
"""The name of BAGEL-7B-MoT's own widths, for which no folder is needed."""

PRECISIONS = {"bfloat16": "dense", "float16": "dense", "fp8": "fp8", "int8": "int8"}
"""What tiles are tuned for, by the name that a tile file gives it, and the kind of its experts."""

ROWS = ("1026:2", "4098:2", "8208:16", "64:64", "16:16", "1:1", "258:2")
"""One picture of 512 and of 1024 pixels, eight of 512; a prompt, a short one, a token of an answer; one of 256 pixels.
The most important first: time may run out."""


@dataclass(frozen=True)
class Point:
    """One layer at one size. k in, n out (gate_up: the intermediate width); m rows, n_text of them text, sorted."""

    layer: str
    m: int
    n_text: int
    n: int
    k: int

    @property
    def name(self) -> str:
        """`qkv 1026:2`."""
        return f"{self.layer} {self.m}:{self.n_text}"

    @property
    def op(self) -> str:
        """The op of the contract that computes it."""
        return "gated_linear" if self.layer == "gate_up" else "linear"

    @property
    def bias(self) -> bool:
        """Whether the layer has one, as BAGEL's have."""
        return self.layer == "qkv"

    @property
    def accumulators(self) -> int:
        """Weight rows behind one column of the result: gate and up are two."""
        return 2 if self.layer == "gate_up" else 1

    def problem(self, precision: str, device: torch.device, image_first: bool = True) -> Problem:
        """What an implementation is asked about."""
        from reference_impl.contract import Problem

        dtype, kind = rows_in(precision), typing.cast("Kind", PRECISIONS[precision])
        return Problem(self.op, self.m, self.n, self.k, dtype, device, image_first, kind)


def rows_in(precision: str) -> torch.dtype:
    """The dtype of rows and results: BAGEL's bfloat16 beside quantised experts."""
    import torch

    found: torch.dtype = torch.bfloat16 if precision in ("fp8", "int8") else getattr(torch, precision)
    return found


def widths(model: str) -> Shape:
    """The widths of `bagel-7b` or of the checkpoint in a folder. Raises what BagelConfig.read raises."""
    if model == BAGEL_7B:
        return BAGEL
    from bagel.config import BagelConfig

    found = BagelConfig.read(Path(model)).language
    return Shape(1, 1, found.hidden, found.heads, found.kv_heads, found.head_dim, found.intermediate)


def points(shape: Shape, layers: Sequence[str], rows: Sequence[str], ranks: int = 1) -> list[Point]:
    """A point for each of `rows` (texts like "1026:2", or "1026" for two text rows) and each layer, in this order.

    With several ranks of tensor parallel, the widths are those of one rank, or of each kind of rank if they differ.
    Raises ValueError for an unknown layer, for rows that are no such text, or ranks that do not divide a layer.
    """
    if unknown := [layer for layer in layers if layer not in LAYERS]:
        raise ValueError(f"layer {', '.join(unknown)} is unknown; use one of {', '.join(LAYERS)}")
    sizes = {layer: _sizes(shape, layer, ranks) for layer in layers}
    return [
        Point(layer, m, n_text, n, k)
        for m, n_text in map(_rows, dict.fromkeys(rows))
        for layer in dict.fromkeys(layers)
        for n, k in sizes[layer]
    ]


def _rows(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]+)(?::([0-9]+))?", text)
    m = int(found[1]) if found else 0
    n_text = min(m, 2) if found is None or found[2] is None else int(found[2])
    if m < 1 or n_text > m:
        raise ValueError(f"shape {text!r} must be ROWS or ROWS:TEXT_ROWS, at least 1 and at most ROWS, as in 1026:2")
    return m, n_text


def _sizes(shape: Shape, layer: str, ranks: int) -> list[tuple[int, int]]:
    """(n, k) of a layer on each kind of rank, found by cutting weights that have shapes and no numbers."""
    import torch

    from reference_impl.contract import Experts, QKNorm
    from reference_impl.parallel import Parallel, cut_heads, cut_inputs, cut_outputs

    n, k = shape.layer(layer)
    whole = Experts(torch.empty(2, n, k, device="meta"))
    gain = torch.empty(2, shape.head_dim, device="meta")
    found = []
    for rank in range(ranks):
        parallel = Parallel(rank, ranks)
        if layer == "qkv":
            part, _ = cut_heads(whole, QKNorm(gain, gain, shape.n_heads, shape.n_kv_heads, 0.0), parallel)
        elif layer == "gate_up":
            part = cut_outputs(whole, (n // 2, n // 2), parallel)
        else:
            part = cut_inputs(whole, parallel)
        found.append((part.n_out // (2 if layer == "gate_up" else 1), part.n_in))
    return list(dict.fromkeys(found))
