"""Rotary position embedding, alone and in one launch with the q/k norms."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from mot_impl.device import INTERPRETED, launch, require_supported, require_unit_stride
from mot_impl.norm import PER_WARP, WIDEST, HeadBlock
from reference_impl.checks import check_qk_norm_rotary, check_rotary
from reference_impl.contract import KVSlice, QKNorm, Rotary, Route, require


@dataclass(frozen=True)
class RowBlock:
    """How the kernel of whole rows divides its problem: `rows` a program, each with `heads` of `width`, both padded."""

    rows: int
    heads: int
    width: int
    warps: int

    @classmethod
    def of(cls, m: int, n_heads: int, head_dim: int) -> "RowBlock":
        """One row a program, 32 values a thread; in the interpreter, whose cost is per program, as many as a million
        values hold."""
        heads, width = triton.next_power_of_2(n_heads), triton.next_power_of_2(head_dim)
        require(
            heads * width <= WIDEST,
            "{} heads of width {} are {} values with padding but the q/k norm takes at most {}",
            n_heads,
            head_dim,
            heads * width,
            WIDEST,
            error=NotImplementedError,
        )
        rows = min(max(1, 2**20 // (heads * width)), triton.next_power_of_2(max(m, 1))) if INTERPRETED else 1
        return cls(rows, heads, width, min(32, max(4, heads * width // PER_WARP)))

    def __str__(self) -> str:
        where = "interpreter" if INTERPRETED else "heuristic"
        return f"{self.rows}x{self.heads}x{self.width} w{self.warps} ({where})"


@triton.jit
def _load_halves(ptrs, half, mask):
    """Both halves of each head in float32; `ptrs` point at the first."""
    first = tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(ptrs + half, mask=mask, other=0.0).to(tl.float32)
    return first, second


@triton.jit
def _turn(first, second, cos, sin):
    """x * cos + rotate_half(x) * sin on halves: [a, b] -> [a * cos - b * sin, b * cos + a * sin].

    The tables' second halves repeat the first, so one half of each is enough.
    """
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def _store_halves(ptrs, first, second, half, mask):
    tl.store(ptrs, first.to(ptrs.dtype.element_ty), mask=mask)
    tl.store(ptrs + half, second.to(ptrs.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def _rotary_kernel(
    x_ptr, cos_ptr, sin_ptr, y_ptr,
    n_rows, n_heads, HALF, stride_x, stride_x_head, stride_cos, stride_sin,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_H heads of y. x [n_rows, n_heads, 2 HALF], cos and sin [n_rows, 2 HALF], y as x but contiguous."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    row, head = offs // n_heads, offs % n_heads
    offs_d = tl.arange(0, BLOCK_D)
    mask = (row < n_rows)[:, None] & (offs_d < HALF)[None, :]
    x_ptrs = x_ptr + (row * stride_x + head * stride_x_head)[:, None] + offs_d[None, :]
    first, second = _load_halves(x_ptrs, HALF, mask)
    cos = tl.load(cos_ptr + (row * stride_cos)[:, None] + offs_d[None, :], mask=mask, other=0.0)
    sin = tl.load(sin_ptr + (row * stride_sin)[:, None] + offs_d[None, :], mask=mask, other=0.0)
    first, second = _turn(first, second, cos, sin)
    _store_halves(y_ptr + (offs * 2 * HALF)[:, None] + offs_d[None, :], first, second, HALF, mask)


@triton.jit(do_not_specialize=["n_rows", "n_text"])
def _qk_norm_rotary_kernel(
    qkv_ptr, q_gain_ptr, k_gain_ptr, cos_ptr, sin_ptr, q_ptr, k_ptr, v_ptr, rows_ptr, into_ptr,
    n_rows, n_text, stride_qkv, stride_q_gain, stride_k_gain, stride_cos, stride_sin, stride_k, stride_v, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, KEEP_V: tl.constexpr, SCATTER: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """q and k of BLOCK_R rows, and v if KEEP_V. qkv [*, (HEADS + 2 KV_HEADS) * 2 HALF], q contiguous, heads of k and v
    too, rows int64. Row r of k and v goes to row r, or if SCATTER to row into[r], int64.

    Whole rows, because all heads of a row share its tables and its expert's gains: a thread reads them once for several
    heads. The sizes are constants: a model has few, and masks that hold for all fall away.
    """
    width: tl.constexpr = 2 * HALF
    position = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask_r = position < n_rows
    row = tl.load(rows_ptr + position, mask=mask_r, other=0)[:, None, None]
    expert = (position >= n_text).to(tl.int64)[:, None, None]
    head = tl.arange(0, BLOCK_H)[None, :, None]
    offs_d = tl.arange(0, BLOCK_D)[None, None, :]
    mask_d = mask_r[:, None, None] & (offs_d < HALF)
    is_q = head < HEADS
    mask_q, mask_k = mask_d & is_q, mask_d & (head >= HEADS) & (head < HEADS + KV_HEADS)
    first, second = _load_halves(qkv_ptr + row * stride_qkv + (head * width + offs_d), HALF, mask_q | mask_k)
    cos = tl.load(cos_ptr + row * stride_cos + offs_d, mask=mask_d, other=0.0)
    sin = tl.load(sin_ptr + row * stride_sin + offs_d, mask=mask_d, other=0.0)
    q_gain = _load_halves(q_gain_ptr + expert * stride_q_gain + offs_d, HALF, mask_d)
    k_gain = _load_halves(k_gain_ptr + expert * stride_k_gain + offs_d, HALF, mask_d)
    scale = tl.rsqrt(tl.sum(first * first + second * second, axis=2) / width + eps)[:, :, None]
    first = first * scale * tl.where(is_q, q_gain[0], k_gain[0])
    second = second * scale * tl.where(is_q, q_gain[1], k_gain[1])
    first, second = _turn(first, second, cos, sin)
    _store_halves(q_ptr + row * (HEADS * width) + (head * width + offs_d), first, second, HALF, mask_q)
    kept = tl.load(into_ptr + row, mask=mask_r[:, None, None], other=0) if SCATTER else row
    _store_halves(k_ptr + kept * stride_k + ((head - HEADS) * width + offs_d), first, second, HALF, mask_k)
    if KEEP_V:
        offs_v = tl.arange(0, BLOCK_V)[None, None, :]
        mask_v = mask_r[:, None, None] & (offs_v < KV_HEADS * width)
        v_ptrs = qkv_ptr + row * stride_qkv + ((HEADS + KV_HEADS) * width + offs_v)
        tl.store(v_ptr + kept * stride_v + offs_v, tl.load(v_ptrs, mask=mask_v), mask=mask_v)


def rotary(x: Tensor, table: Rotary) -> Tensor:
    """y = x * cos + rotate_half(x) * sin with rotate_half([a, b]) = [-b, a], in float32, rounded once.

    x [M, heads, d] with any row and head stride, table [M, d] -> x's shape and dtype. Raises ValueError at the
    contract's door, NotImplementedError for a device, dtype or width without kernels.
    """
    check_rotary(x, table)
    require_supported(x, table.cos, table.sin)
    require_unit_stride(x=x, cos=table.cos, sin=table.sin)
    m, n_heads, d = x.shape
    y = torch.empty(m, n_heads, d, dtype=x.dtype, device=x.device)
    block = HeadBlock.of(m * n_heads, d)
    launch(
        _rotary_kernel, triton.cdiv(m * n_heads, block.heads), x,
        x, table.cos, table.sin, y,
        m, n_heads, d // 2, x.stride(0), x.stride(1), table.cos.stride(0), table.sin.stride(0),
        BLOCK_H=block.heads, BLOCK_D=block.width // 2, num_warps=block.warps,
    )  # fmt: skip
    return y


def qk_norm_rotary(
    qkv: Tensor, norm: QKNorm, table: Rotary, route: Route, into: KVSlice | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Norm, then rotate, the q and k heads of a packed row in float32, rounded once; v as it is.

    qkv [M, (H + 2G) * d] with any row stride -> q [M, H, d], k [M, G, d], v [M, G, d], in qkv's dtype; v is a view.
    With `into`, k and v are stored there by the same launch, and the results are q and its whole k and v. Raises
    ValueError or TypeError at the contract's door, NotImplementedError for a device, dtype or width without kernels.
    """
    check_qk_norm_rotary(qkv, norm, table, route, into)
    require_supported(qkv, norm.q_gain, norm.k_gain, table.cos, table.sin)
    require_unit_stride(qkv=qkv, q_gain=norm.q_gain, k_gain=norm.k_gain, cos=table.cos, sin=table.sin)
    (m, width), d = qkv.shape, norm.head_dim
    q = torch.empty(m, norm.n_heads, d, dtype=qkv.dtype, device=qkv.device)
    v = qkv[:, width - norm.n_kv_heads * d :].view(m, norm.n_kv_heads, d)
    if into is None:
        k = torch.empty(m, norm.n_kv_heads, d, dtype=qkv.dtype, device=qkv.device)
        at, kept, found = None, (k, v), (q, k, v)
    else:
        at, kept = _places(into)
        found = (q, into.k, into.v)
    block = RowBlock.of(m, norm.n_heads + norm.n_kv_heads, d)
    launch(
        _qk_norm_rotary_kernel, triton.cdiv(m, block.rows), qkv,
        qkv, norm.q_gain, norm.k_gain, table.cos, table.sin, q, *kept, route.rows.contiguous(),
        route.rows if at is None else at,
        m, route.n_text, qkv.stride(0), norm.q_gain.stride(0), norm.k_gain.stride(0),
        table.cos.stride(0), table.sin.stride(0), kept[0].stride(0), kept[1].stride(0), norm.eps,
        HEADS=norm.n_heads, KV_HEADS=norm.n_kv_heads, HALF=d // 2, KEEP_V=into is not None, SCATTER=at is not None,
        BLOCK_R=block.rows, BLOCK_H=block.heads, BLOCK_D=block.width // 2,
        BLOCK_V=triton.next_power_of_2(norm.n_kv_heads * d), num_warps=block.warps,
    )  # fmt: skip
    return found


def _places(into: KVSlice) -> tuple[Tensor | None, tuple[Tensor, Tensor]]:
    """Where each row goes, None if in order; and k and v from the first of these places on."""
    for name, cache in (("cached k", into.k), ("cached v", into.v)):
        require(
            cache[0:1].is_contiguous(),
            "{} has strides {} but the heads of a row must be contiguous, [T, G, d]",
            name,
            cache.stride(),
        )
    if isinstance(into.rows, slice):
        return None, (into.k[into.rows], into.v[into.rows])
    return into.rows.contiguous(), (into.k, into.v)
