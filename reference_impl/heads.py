"""The vocabulary of attention's heads: QKNorm, Rotary, KVSlice. Part of the contract."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reference_impl.require import require


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
