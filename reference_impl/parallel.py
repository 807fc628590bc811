"""Which ranks compute one model together, and how the weights of a layer are cut for them. No layer is computed here.

Tensor parallel is Megatron's scheme: qkv and gate_up are cut by outputs, so that the op behind them works on its own
heads or columns, and o and down by inputs, so that their results are partial sums and one sum over the ranks ends each
half of a layer. Source: Shoeybi et al., "Megatron-LM", 2019, section 3. Inference only: nothing here has a gradient.

A quantised weight's scales belong to its outputs: they are cut with them, and stay whole where inputs are cut. The
fixed scale of an expert's input is that of any part of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from reference_impl.contract import Experts, QKNorm, require

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Mode = Literal["tensor", "sequence"]


@dataclass(frozen=True)
class Parallel:
    """The ranks (processes) that compute one model together. Every one of them makes the same calls in the same order.

    rank, size  this process among them, 0 .. size - 1
    mode        "tensor": a rank has all rows and a part of each weight; "sequence": all weights and a part of the rows
    group       of torch.distributed, whose timeout bounds every wait; None is the default group

    Whatever a mode does not divide is whole on every rank: there, `part` is everything and `sum` returns its argument.
    Raises ValueError for a mode or a rank that cannot be. Where another rank is gone, or too late, what waits for it
    raises ConnectionError.
    """

    rank: int = 0
    size: int = 1
    mode: Mode = "tensor"
    group: ProcessGroup | None = None

    def __post_init__(self) -> None:
        modes = get_args(Mode)
        require(self.mode in modes, "parallel mode {!r} is unknown; use one of {}", self.mode, ", ".join(modes))
        require(0 <= self.rank < self.size, "rank {} must lie in 0..{}", self.rank, self.size - 1)

    @property
    def weight_parts(self) -> int:
        """Into how many parts each weight is cut."""
        return self.size if self.mode == "tensor" else 1

    @property
    def row_parts(self) -> int:
        """Among how many ranks the image rows are divided."""
        return self.size if self.mode == "sequence" else 1

    def part(self, width: int, what: str) -> slice:
        """This rank's part of `width` equal things. Raises ValueError, calling them `what`, if they do not divide."""
        n = self.weight_parts
        require(
            width % n == 0,
            "{} {} do not divide among {} ranks of tensor parallel; use a number of ranks that divides {}, "
            "or sequence parallel",
            width,
            what,
            n,
            width,
        )
        rank = self.rank if n > 1 else 0
        return slice(rank * width // n, (rank + 1) * width // n)

    def rows(self, n: int) -> slice:
        """This rank's part of n rows: ceil(n / ranks) each, in the order of the ranks; the last ones may have fewer."""
        each = -(-n // self.row_parts)
        rank = self.rank if self.row_parts > 1 else 0
        return slice(min(rank * each, n), min((rank + 1) * each, n))

    def sum(self, x: Tensor) -> Tensor:
        """The sum of the ranks' x, the same bits on each, in x's dtype. x is overwritten."""
        if self.weight_parts > 1:
            x = x.contiguous()
            self._together(dist.all_reduce, x)
        return x

    def gather(self, x: Tensor, n: int) -> Tensor:
        """All n rows [n, ...], of which x is this rank's `rows(n)`."""
        if self.row_parts == 1:
            return x
        each = -(-n // self.size)
        mine = x.new_zeros(each, *x.shape[1:])
        mine[: len(x)] = x
        whole = x.new_empty(self.size, *mine.shape)
        self._together(dist.all_gather, list(whole.unbind()), mine)
        return whole.flatten(0, 1)[:n]

    def first(self, x: Tensor) -> Tensor:
        """Rank 0's x on every rank: where rounding might make them disagree, one decides. x is overwritten."""
        if self.size > 1:
            self._together(dist.broadcast, x, group_src=0)
        return x

    def _together(self, collective: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            collective(*args, group=self.group, **kwargs)
        except RuntimeError as error:  # what gloo and NCCL raise for a lost connection and for a timeout
            raise ConnectionError(
                f"rank {self.rank} of {self.size} waited in vain for another ({error}); look for what that one printed"
            ) from error


ALONE = Parallel()
"""One process computes everything."""


def cut_heads(qkv: Experts, norm: QKNorm, parallel: Parallel) -> tuple[Experts, QKNorm]:
    """This rank's query heads with the key/value heads that they attend to, and the division of the shorter qkv row.

    qkv [2, (H + 2G) * d, K] as `norm` divides it -> [2, (h + 2g) * d, K] with h = H / ranks. Ranks that share a
    key/value head each hold it. Raises ValueError if the query heads do not divide among the ranks.
    """
    require(
        qkv.n_out == norm.qkv_width,
        "qkv has N={} but {} query and {} key/value heads of width {} need {}",
        qkv.n_out,
        norm.n_heads,
        norm.n_kv_heads,
        norm.head_dim,
        norm.qkv_width,
    )
    own = range(norm.n_heads)[parallel.part(norm.n_heads, "query heads")]
    if parallel.weight_parts == 1:
        return qkv, norm
    own_kv = _kv_heads(own, norm)
    keys, values = norm.n_heads, norm.n_heads + norm.n_kv_heads
    heads = [*own, *(keys + i for i in own_kv), *(values + i for i in own_kv)]
    cut = _outputs(qkv, [slice(i * norm.head_dim, (i + 1) * norm.head_dim) for i in heads])
    return cut, replace(norm, n_heads=len(own), n_kv_heads=len(own_kv))


def _kv_heads(heads: Sequence[int], norm: QKNorm) -> list[int]:
    """The key/value heads of some query heads: each once if they serve equally many of them in order, as grouped
    attention needs; otherwise one copy per query head.
    """
    served = [head * norm.n_kv_heads // norm.n_heads for head in heads]
    distinct = sorted(set(served))
    even = len(served) % len(distinct) == 0 and len({served.count(i) for i in distinct}) == 1
    return distinct if even else served


def cut_outputs(merged: Experts, widths: Sequence[int], parallel: Parallel) -> Experts:
    """This rank's part of each of the layers whose outputs lie packed in one weight, one after the other.

    merged [2, N, K] with N the sum of `widths` -> [2, N / ranks, K]. gate_up: widths (I, I). Raises ValueError.
    """
    require(
        merged.n_out == sum(widths),
        "weight has N={} but the merged widths {} add up to {}",
        merged.n_out,
        tuple(widths),
        sum(widths),
    )
    parts = [parallel.part(width, "output columns") for width in widths]
    if parallel.weight_parts == 1:
        return merged
    starts = [sum(widths[:i]) for i in range(len(widths))]
    return _outputs(merged, [slice(start + p.start, start + p.stop) for start, p in zip(starts, parts, strict=True)])


def cut_inputs(experts: Experts, parallel: Parallel) -> Experts:
    """The weight for this rank's part of the inputs; bias and scale stay whole. [2, N, K] -> [2, N, K / ranks].

    The ranks' results are partial sums: see `Parallel.sum`. Raises ValueError if K does not divide among the ranks.
    """
    part = parallel.part(experts.n_in, "input columns")
    if parallel.weight_parts == 1:
        return experts
    # A copy: a view would keep the whole weight in memory.
    return replace(experts, weight=experts.weight[:, :, part].clone(memory_format=torch.contiguous_format))


def _outputs(experts: Experts, parts: list[slice]) -> Experts:
    """A copy of some outputs, in the order given."""

    def taken(tensor: Tensor) -> Tensor:
        return torch.cat([tensor[:, part] for part in parts], dim=1)

    bias, scale = (None if tensor is None else taken(tensor) for tensor in (experts.bias, experts.scale))
    return replace(experts, weight=taken(experts.weight), bias=bias, scale=scale)
