"""Rotary position embedding, and its arrangement with the q/k norms."""

import torch
from torch import Tensor

from reference_impl.checks import check_qk_norm_rotary, check_rotary
from reference_impl.contract import KVSlice, QKNorm, Rotary, Route, accumulation_dtype, upcast
from reference_impl.norm import head_rms_norm


def rotary(x: Tensor, table: Rotary) -> Tensor:
    """y = x * cos + rotate_half(x) * sin with rotate_half([a, b]) = [-b, a], in float32, rounded once.

    x [M, heads, d], table [M, d] -> x's shape and dtype. Raises ValueError. Source: Qwen2 `apply_rotary_pos_emb`.
    """
    check_rotary(x, table)
    wide = x.to(accumulation_dtype(x.dtype))
    first, second = wide.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (wide * table.cos[:, None, :] + turned * table.sin[:, None, :]).to(x.dtype)


def qk_norm_rotary(
    qkv: Tensor, norm: QKNorm, table: Rotary, route: Route, into: KVSlice | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Split a packed qkv row into heads; norm, then rotate, q and k in float32, rounded once; v as it is.

    qkv [M, (H + 2G) * d] -> q [M, H, d], k [M, G, d], v [M, G, d], in qkv's dtype; v is a view. With `into`, k and v
    are stored there, and the results are q and its whole k and v. Raises ValueError or TypeError.
    Source: BAGEL's PackedAttentionMoT, which keeps q/k norms of generation passes in float32 before rotary.
    """
    check_qk_norm_rotary(qkv, norm, table, route, into)
    heads = qkv.view(qkv.shape[0], norm.n_heads + 2 * norm.n_kv_heads, norm.head_dim)
    q, k, v = torch.split(heads, [norm.n_heads, norm.n_kv_heads, norm.n_kv_heads], dim=1)
    wide = accumulation_dtype(qkv.dtype)
    q_wide = head_rms_norm(q.to(wide), upcast(norm.q_gain, wide), route, norm.eps)
    k_wide = head_rms_norm(k.to(wide), upcast(norm.k_gain, wide), route, norm.eps)
    q, k = rotary(q_wide, table).to(qkv.dtype), rotary(k_wide, table).to(qkv.dtype)
    return (q, k, v) if into is None else (q, *into.keep(k, v))
