"""The vocabulary that both implementations share: Route, Problem, MoTOps, and from the modules beside it Experts and
QuantisedRows (experts.py), QKNorm, Rotary and KVSlice (heads.py). Others import all of it from here.

Nothing here computes. Every op of the contract is a function of these objects; `reference_impl` says what it means in
plain PyTorch and `mot_impl` computes the same with fused kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference_impl.experts import FP8, FP8_MAX, INT8_MAX, Experts, Kind, QuantisedRows, Rows
from reference_impl.heads import KVSlice, QKNorm, Rotary
from reference_impl.require import require

__all__ = [
    "FP8",
    "FP8_MAX",
    "IMAGE",
    "INT8_MAX",
    "TEXT",
    "Experts",
    "KVSlice",
    "Kind",
    "MoTOps",
    "Problem",
    "QKNorm",
    "QuantisedRows",
    "Rotary",
    "Route",
    "Rows",
    "accumulation_dtype",
    "on_16_bytes",
    "require",
    "upcast",
]

TEXT, IMAGE = 0, 1
"""Index of each expert in every stacked tensor: text first."""


@dataclass(frozen=True)
class Route:
    """Which rows of a packed sequence each expert owns.

    rows         [M] int64, a permutation of 0..M-1: the text expert's rows, then the image expert's rows
    n_text       how many of them belong to the text expert
    image_first  whether image rows are 0..n_image-1 and text rows the rest, both in order: kernels that need whole
                 blocks of rows ask for it

    Example: `is_image = [0 0 1 1 0]` -> `rows = [0 1 4 2 3]`, `n_text = 3`.

    `Route(rows, n_text)` trusts that `rows` is a permutation, and in the order that `image_first` promises (checking
    would stall a GPU); the class methods check, or make it so. Raises ValueError or TypeError.
    """

    rows: Tensor
    n_text: int
    image_first: bool = False

    def __post_init__(self) -> None:
        require(
            self.rows.dtype == torch.int64,
            "route rows are {} but must be torch.int64; convert with .long()",
            self.rows.dtype,
            error=TypeError,
        )
        require(
            self.rows.ndim == 1, "route rows have shape {} but must be one-dimensional, [M]", tuple(self.rows.shape)
        )
        require(
            0 <= self.n_text <= len(self.rows),
            "route has n_text={} but {} rows; n_text must lie in 0..{}",
            self.n_text,
            len(self.rows),
            len(self.rows),
        )

    @classmethod
    def from_mask(cls, is_image: Tensor) -> "Route":
        """The route of a bool mask [M], True where a token belongs to the image expert. Rows keep their order."""
        require(
            is_image.dtype == torch.bool, "route mask is {} but must be torch.bool", is_image.dtype, error=TypeError
        )
        require(is_image.ndim == 1, "route mask has shape {} but must be one-dimensional, [M]", tuple(is_image.shape))
        text, image = (~is_image).nonzero().flatten(), is_image.nonzero().flatten()
        image_first = len(image) == 0 or int(image[-1]) == len(image) - 1
        return cls(torch.cat([text, image]), len(text), image_first)

    @classmethod
    def image_then_text(cls, n_image: int, n_text: int, device: torch.device | str = "cpu") -> "Route":
        """The route of a sequence whose image rows come first: the order that lets a kernel read rows in blocks."""
        rows = torch.arange(n_image + n_text, device=device)
        return cls(torch.cat([rows[n_image:], rows[:n_image]]), n_text, image_first=True)

    @classmethod
    def from_rows(cls, text_rows: Tensor, image_rows: Tensor) -> "Route":
        """The route of two index lists, in any order. Together they must name each of 0..M-1 exactly once."""
        for name, rows in (("text", text_rows), ("image", image_rows)):
            require(
                rows.dtype in (torch.int64, torch.int32),
                "{} rows are {} but must be int64 or int32",
                name,
                rows.dtype,
                error=TypeError,
            )
            require(rows.ndim == 1, "{} rows have shape {} but must be one-dimensional", name, tuple(rows.shape))
        require(
            text_rows.device == image_rows.device,
            "text rows are on {} but image rows on {}; move both to one device",
            text_rows.device,
            image_rows.device,
        )
        rows = torch.cat([text_rows.long(), image_rows.long()])
        m = len(rows)
        if m:
            low, high = int(rows.min()), int(rows.max())
            require(low >= 0, "row {} is negative; rows must lie in 0..{}", low, m - 1)
            # Before anything is counted: a count per row up to a stray index may not fit in memory.
            require(high < m, "row {} is out of range or leaves a gap: {} rows must name 0..{}", high, m, m - 1)
            twice = (torch.bincount(rows, minlength=m) > 1).nonzero().flatten().tolist()
            require(
                not twice,
                "rows {} are named more than once; a row belongs to exactly one expert, so name each in one list, once",
                twice[:8],
            )
        return cls(rows, len(text_rows))

    @classmethod
    def all_text(cls, n_rows: int, device: torch.device | str = "cpu") -> "Route":
        """The route of a pass without image rows."""
        return cls.image_then_text(0, n_rows, device)

    @property
    def n_rows(self) -> int:
        """M, the number of rows of the sequence."""
        return len(self.rows)

    @property
    def n_image(self) -> int:
        """How many rows belong to the image expert."""
        return len(self.rows) - self.n_text

    @property
    def text_rows(self) -> Tensor:
        """[n_text] int64."""
        return self.rows[: self.n_text]

    @property
    def image_rows(self) -> Tensor:
        """[n_image] int64."""
        return self.rows[self.n_text :]

    @property
    def expert_rows(self) -> tuple[Tensor, Tensor]:
        """(text_rows, image_rows): in the order of every stacked weight."""
        return self.text_rows, self.image_rows

    def to(self, device: torch.device | str) -> "Route":
        """The same route with its rows on `device`."""
        return Route(self.rows.to(device), self.n_text, self.image_first)


@dataclass(frozen=True)
class Problem:
    """One kernel problem, for asking an implementation which tile it would use. `op` is a name of the contract.

    m rows; k the width of a row of x and n that of a row of the result. gated_mlp: n is the intermediate width. Norms,
    rotary and attention: k is the width of one head and n that of all heads of a row, of qk_norm_rotary those of q and
    k. dtype is that of the results, image_first the route's, kind the experts'.
    """

    op: str
    m: int
    n: int
    k: int
    dtype: torch.dtype
    device: torch.device
    image_first: bool = False
    kind: Kind = "dense"


@dataclass(frozen=True)
class MoTOps:
    """An implementation: a frozen bundle of callables. Third parties bring their own as `package.module:OPS`.

    M rows, K in, N out, H query heads, G key/value heads, d head width, I intermediate width.

    linear(x [M,K], experts, route) -> [M,N]                       each row through its expert's layer
    rms_norm(x [M,K], gain [2,K], route, eps) -> [M,K]             x / sqrt(mean(x^2) + eps) * gain, in float32
    head_rms_norm(x [M,heads,d], gain [2,d], route, eps) -> same   the same per head
    add_rms_norm(x [M,K], other [M,K], gain [2,K], route, eps)     s = x + other, rounded; then its rms_norm
        -> s [M,K], y [M,K]
    rotary(x [M,heads,d], table) -> same                           x * cos + rotate_half(x) * sin, in float32
    qk_norm_rotary(qkv [M,(H+2G)d], norm, table, route)            head_rms_norm then rotary on q and k, rounded once
        -> q [M,H,d], k [M,G,d], v [M,G,d]                         v is a view of qkv
    qk_norm_rotary(qkv, norm, table, route, into)                  the same, k and v stored in `into` (a KVSlice) and
        -> q [M,H,d], k [T,G,d], v [T,G,d]                         nothing else of it changed; its k and v
    gated_linear(x [M,K], gate_up [2,2I,K], route) -> [M,I]        SiLU(gate) * up; gate rows first in the weight
    gated_mlp(x, gate_up, down [2,K,I], route) -> [M,K]            linear(gated_linear(x), down)
    attention(q [M,H,d], k [T,G,d], v [T,G,d], causal) -> [M,H,d]  scale d^-1/2; causal is bottom-right
    describe_tile(problem) -> str                                  tile and its origin, recorded with every result

    Inputs share one floating dtype and device; results have it too. Each raises ValueError, TypeError or
    NotImplementedError naming both values; none falls back to another implementation.

    Quantised experts (docs/quantisation.md). The linear ops take x as it is or, for fp8 experts, as QuantisedRows;
    fp8 experts quantise an x that is not, in a launch of its own. int8 experts take x as it is. Of an implementation
    without them, the ops that make QuantisedRows are None: `offered` says so.

    quantise_rows(x [M,K], route, input_scale [2] | None)          scale: the expert's, or the row's absmax / 448 (1 for
        -> QuantisedRows                                           zeros); values x / scale, clamped to +-448
    quantised_rms_norm(x, gain, route, eps, input_scale)           quantise_rows(rms_norm(x)), rounded to x's dtype
        -> QuantisedRows                                           between them
    quantised_add_rms_norm(x, other, gain, route, eps,             the same of add_rms_norm
        input_scale) -> s [M,K], QuantisedRows
    """

    name: str
    # Any: Rows, or Tensor alone of an implementation that takes no QuantisedRows.
    linear: Callable[[Any, Experts, Route], Tensor]
    rms_norm: Callable[[Tensor, Tensor, Route, float], Tensor]
    head_rms_norm: Callable[[Tensor, Tensor, Route, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, Route, float], tuple[Tensor, Tensor]]
    rotary: Callable[[Tensor, Rotary], Tensor]
    qk_norm_rotary: Callable[..., tuple[Tensor, Tensor, Tensor]]
    gated_linear: Callable[[Any, Experts, Route], Tensor]
    gated_mlp: Callable[[Any, Experts, Experts, Route], Tensor]
    attention: Callable[[Tensor, Tensor, Tensor, bool], Tensor]
    describe_tile: Callable[[Problem], str]
    quantise_rows: Callable[[Tensor, Route, Tensor | None], QuantisedRows] | None = None
    quantised_rms_norm: Callable[[Tensor, Tensor, Route, float, Tensor | None], QuantisedRows] | None = None
    quantised_add_rms_norm: (
        Callable[[Tensor, Tensor, Tensor, Route, float, Tensor | None], tuple[Tensor, QuantisedRows]] | None
    ) = None

    def offered(self, op: str) -> Callable[..., Any]:
        """The op of that name. Raises NotImplementedError, naming both, if this implementation has none."""
        found: Callable[..., Any] | None = getattr(self, op)
        if found is None:
            raise NotImplementedError(
                f"implementation {self.name!r} has no {op}, which fp8 experts need; use int8 or dense experts"
            )
        return found


def on_16_bytes(tensor: Tensor) -> Tensor:
    """`tensor` itself if its base and every stride but the last are multiples of 16 bytes, else a copy that is.

    PyTorch's half-precision attention kernels read beside a view that is not: NaN outside a 66-row view with an odd row
    stride came out of scaled_dot_product_attention on an H100 (torch 2.11).
    """
    steps = [tensor.storage_offset(), *tensor.stride()[:-1]]
    return tensor if all(step * tensor.itemsize % 16 == 0 for step in steps) else tensor.contiguous()


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64: what norms and rotary compute in."""
    return torch.promote_types(dtype, torch.float32)


def upcast(value: Any, dtype: torch.dtype) -> Any:
    """The same argument with every floating tensor in `dtype`: tensors, tuples and the objects of this module.

    Quantised experts become dense ones, and QuantisedRows a tensor, of exactly the numbers that they stand for: so an
    op of them in a wider dtype is the truth about what was done with them, not about what they were made from.
    """
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(upcast(item, dtype) for item in value)
    if isinstance(value, Experts):
        weight = value.weight.to(dtype)
        if value.scale is not None:
            weight *= value.scale.to(dtype)[:, :, None]
        return Experts(weight, upcast(value.bias, dtype))
    if isinstance(value, QuantisedRows):
        return value.values.to(dtype) * value.scale.to(dtype)[:, None]
    if isinstance(value, QKNorm):
        return QKNorm(
            upcast(value.q_gain, dtype), upcast(value.k_gain, dtype), value.n_heads, value.n_kv_heads, value.eps
        )
    if isinstance(value, Rotary):
        return Rotary(upcast(value.cos, dtype), upcast(value.sin, dtype))
    return value
