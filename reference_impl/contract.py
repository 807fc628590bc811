"""The vocabulary that both implementations share: Route, Experts, QuantisedRows, QKNorm, Rotary, KVSlice,
Problem, MoTOps.

Nothing here computes. Every op of the contract is a function of these objects; `reference_impl` says what it means in
plain PyTorch and `mot_impl` computes the same with fused kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

TEXT, IMAGE = 0, 1
"""Index of each expert in every stacked tensor: text first."""

FP8, FP8_MAX = torch.float8_e4m3fn, 448.0
"""The 8-bit float of quantised weights and rows, and its largest value. It has NaN and no infinity."""

INT8_MAX = 127
"""The largest magnitude of an int8 weight: symmetric, -128 is not used."""

Kind = Literal["dense", "fp8", "int8"]
"""How the weights of a layer are stored."""


def require(condition: bool, message: str, *values: object, error: type[Exception] = ValueError) -> None:
    """Raise `error` with `message.format(*values)` unless `condition` holds. It names both values and the cure."""
    if not condition:
        raise error(message.format(*values))


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
class Experts:
    """The two experts' weights of one linear layer, dense or quantised.

    weight       [2, N, K], text first: floating ("dense"), float8_e4m3fn ("fp8") or int8 ("int8")
    bias         [2, N] or None; of dense experts in the weight's dtype, of quantised ones in that of the results
    scale        [2, N] float32, quantised only: row n of the layer's matrix is weight[e, n].float() * scale[e, n]
    input_scale  [2] float32 or None, fp8 only: the fixed scale of each expert's input; None: every row has its own

    Example: a row [0.5 -1.0] as int8 is weight [64 -127], scale 1/127.

    An expert that lacks a bias beside one that has one gets a row of zeros: adding it changes no value.
    Precision belongs here: both experts are of one kind, and an illegal mix cannot be written. That scales are finite
    and above 0 is checked where weights are made or loaded (`reference_impl.checks.check_scales`): looking at values
    here would stall a GPU. Raises ValueError, TypeError or, for a dtype that is no kind, NotImplementedError.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: Tensor | None = None
    input_scale: Tensor | None = None

    def __post_init__(self) -> None:
        w, b = self.weight, self.bias
        require(
            w.ndim == 3 and w.shape[0] == 2, "weight has shape {}; weight must be [2, N, K], text first", tuple(w.shape)
        )
        kind = self.kind
        if b is not None:
            require(
                b.shape == w.shape[:2],
                "bias has shape {} but weight {}; bias must be [2, {}]",
                tuple(b.shape),
                tuple(w.shape),
                w.shape[1],
            )
            agree = b.dtype == w.dtype if kind == "dense" else b.is_floating_point() and b.dtype.itemsize > 1
            require(agree, "bias is {} but weight is {}; {}", b.dtype, w.dtype, _bias_cure(kind), error=TypeError)
            require(b.device == w.device, "bias is on {} but weight on {}; move both to one device", b.device, w.device)
        require(
            (self.scale is None) == (kind == "dense"),
            "weight is {} ({}) and scale is {}; quantised experts have a scale [2, N], dense ones none",
            w.dtype,
            kind,
            "missing" if self.scale is None else "given",
        )
        require(
            self.input_scale is None or kind == "fp8",
            "weight is {} ({}) but input_scale is given; only fp8 experts quantise their input",
            w.dtype,
            kind,
        )
        for name, scale, shape in (("scale", self.scale, w.shape[:2]), ("input_scale", self.input_scale, (2,))):
            if scale is not None:
                _require_scale(name, scale, w, tuple(shape))

    @classmethod
    def of(
        cls,
        text: tuple[Tensor, Tensor | None],
        image: tuple[Tensor, Tensor | None],
        scales: tuple[Tensor, Tensor] | None = None,
    ) -> "Experts":
        """Stack two (weight [N, K], bias [N] or None) pairs, and the scales [N] of quantised ones."""
        (text_w, text_b), (image_w, image_b) = text, image
        require(
            text_w.shape == image_w.shape,
            "text weight is {} but image weight {}; they must agree",
            tuple(text_w.shape),
            tuple(image_w.shape),
        )
        require(
            text_w.dtype == image_w.dtype,
            "text weight is {} but image weight {}; both experts must be of one kind",
            text_w.dtype,
            image_w.dtype,
            error=TypeError,
        )
        weight = torch.stack([text_w, image_w])
        scale = None if scales is None else torch.stack(scales)
        given = text_b if image_b is None else image_b
        if given is None:
            return cls(weight, scale=scale)
        zeros = torch.zeros_like(given)
        bias = torch.stack([zeros if text_b is None else text_b, zeros if image_b is None else image_b])
        return cls(weight, bias, scale)

    @property
    def kind(self) -> Kind:
        """How the weights are stored: "dense", "fp8" or "int8". Raises NotImplementedError for any other dtype."""
        dtype = self.weight.dtype
        if dtype == FP8:
            return "fp8"
        if dtype == torch.int8:
            return "int8"
        require(
            dtype.is_floating_point and dtype.itemsize > 1,
            "weight is {}; experts are dense (float32, float16, bfloat16), float8_e4m3fn or int8",
            dtype,
            error=NotImplementedError,
        )
        return "dense"

    @property
    def nbytes(self) -> int:
        """The memory of weights, biases and scales."""
        held = (self.weight, self.bias, self.scale, self.input_scale)
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    @property
    def n_out(self) -> int:
        """N, the width of the output."""
        return self.weight.shape[1]

    @property
    def n_in(self) -> int:
        """K, the width of the input."""
        return self.weight.shape[2]


def _bias_cure(kind: Kind) -> str:
    return "they must agree" if kind == "dense" else "the bias of quantised experts is float32, float16 or bfloat16"


def _require_scale(name: str, scale: Tensor, beside: Tensor, shape: tuple[int, ...]) -> None:
    """A scale is float32, of this shape, beside its values."""
    require(
        tuple(scale.shape) == shape,
        "{} has shape {} but must be {}, for values {}",
        name,
        tuple(scale.shape),
        list(shape),
        tuple(beside.shape),
    )
    require(scale.dtype == torch.float32, "{} is {} but must be torch.float32", name, scale.dtype, error=TypeError)
    require(
        scale.device == beside.device,
        "{} is on {} but its values on {}; move both to one device",
        name,
        scale.device,
        beside.device,
    )


@dataclass(frozen=True)
class QuantisedRows:
    """Rows in 8-bit floats, each with its own scale: what fp8 experts take.

    values  [M, K] float8_e4m3fn
    scale   [M] float32: row m is values[m].float() * scale[m]
    dtype   what results computed from it have: that of the rows it was made from

    Example: a row [1.0 -2.0] is values [224 -448], scale 2/448. Raises ValueError or TypeError.
    """

    values: Tensor
    scale: Tensor
    dtype: torch.dtype

    def __post_init__(self) -> None:
        require(self.values.ndim == 2, "values have shape {} but must be [M, K]", tuple(self.values.shape))
        require(self.values.dtype == FP8, "values are {} but must be {}", self.values.dtype, FP8, error=TypeError)
        _require_scale("scale", self.scale, self.values, (len(self.values),))
        require(
            self.dtype.is_floating_point and self.dtype.itemsize > 1,
            "results would be {}; use float32, float16 or bfloat16",
            self.dtype,
            error=TypeError,
        )

    @property
    def shape(self) -> torch.Size:
        """(M, K), as a tensor's."""
        return self.values.shape

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device


Rows = Tensor | QuantisedRows
"""What a linear op takes: rows [M, K] as they are, or already quantised for fp8 experts."""


@dataclass(frozen=True)
class QKNorm:
    """RMSNorm of each query and key head, and how a packed qkv row divides into heads.

    q_gain, k_gain  [2, d], text first
    n_heads, n_kv_heads  query heads H and key/value heads G; a qkv row is [H*d | G*d | G*d]
    eps             added to the mean square
    """

    q_gain: Tensor
    k_gain: Tensor
    n_heads: int
    n_kv_heads: int
    eps: float

    def __post_init__(self) -> None:
        require(
            self.q_gain.ndim == 2 and self.q_gain.shape[0] == 2,
            "q_gain has shape {}; it must be [2, d]",
            tuple(self.q_gain.shape),
        )
        require(
            self.k_gain.shape == self.q_gain.shape,
            "k_gain has shape {} but q_gain {}; they must agree",
            tuple(self.k_gain.shape),
            tuple(self.q_gain.shape),
        )
        require(
            self.n_kv_heads > 0 and self.n_heads % self.n_kv_heads == 0,
            "{} query heads do not divide among {} key/value heads",
            self.n_heads,
            self.n_kv_heads,
        )

    @property
    def head_dim(self) -> int:
        """d, the width of one head."""
        return self.q_gain.shape[1]

    @property
    def qkv_width(self) -> int:
        """(H + 2G) * d, the width of a packed qkv row."""
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim


@dataclass(frozen=True)
class Rotary:
    """Rotary position tables of a sequence.

    cos, sin  [M, d] float32, half-split convention: the second half of a row repeats the first, so that a kernel may
              read either
    """

    cos: Tensor
    sin: Tensor

    def __post_init__(self) -> None:
        require(
            self.cos.ndim == 2 and self.cos.shape == self.sin.shape,
            "rotary cos is {} and sin {}; both must be [M, d]",
            tuple(self.cos.shape),
            tuple(self.sin.shape),
        )

    @classmethod
    def at(cls, positions: Tensor, head_dim: int, theta: float) -> "Rotary":
        """The tables of integer positions [M]: angle = position * theta^(-2j/d). Source: Qwen2RotaryEmbedding."""
        exponent = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
        angle = positions.float()[:, None] * (1.0 / theta**exponent)[None, :]
        angle = torch.cat([angle, angle], dim=-1)
        return cls(angle.cos(), angle.sin())


@dataclass(frozen=True)
class KVSlice:
    """Where the keys and values of M rows are kept: rows of one layer's cache.

    k, v  [T, G, d]
    rows  which of the T: a slice of M, or [M] int64, all different (which is trusted: checking would stall a GPU)
    """

    k: Tensor
    v: Tensor
    rows: slice | Tensor

    def __post_init__(self) -> None:
        k, v, rows = self.k, self.v, self.rows
        require(k.ndim == 3, "cached k has shape {} but must be [T, G, d]", tuple(k.shape))
        require(v.shape == k.shape, "cached v is {} but k {}; they must agree", tuple(v.shape), tuple(k.shape))
        require(v.dtype == k.dtype, "cached v is {} but k {}; they must agree", v.dtype, k.dtype, error=TypeError)
        require(v.device == k.device, "cached v is on {} but k on {}; move one of them", v.device, k.device)
        if isinstance(rows, slice):
            start, stop = rows.start or 0, len(k) if rows.stop is None else rows.stop
            require(
                0 <= start <= stop <= len(k) and rows.step in (None, 1),
                "rows {} of a cache of {}; they must be a slice within it, of step 1",
                rows,
                len(k),
            )
        else:
            require(
                rows.dtype == torch.int64 and rows.ndim == 1,
                "rows of the cache are {} {} but must be int64 [M]",
                rows.dtype,
                tuple(rows.shape),
                error=TypeError,
            )
            require(rows.device == k.device, "rows are on {} but the cache on {}; move them", rows.device, k.device)

    @property
    def n_rows(self) -> int:
        """M, how many rows are kept."""
        if isinstance(self.rows, slice):
            return len(range(*self.rows.indices(len(self.k))))
        return len(self.rows)

    def keep(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Copy k and v [M, G, d] to their rows; returns the whole cache, (k, v), which then holds them."""
        for kept, new in ((self.k, k), (self.v, v)):
            if isinstance(self.rows, slice):
                kept[self.rows] = new
            else:
                kept.index_copy_(0, self.rows, new.to(kept.dtype))
        return self.k, self.v


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
