"""Rotary position embedding, alone and in one launch with the q/k norms."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mot_impl.device import launch, require_supported, require_unit_stride
from mot_impl.norm import HeadBlock, head_coordinates
from reference_impl.checks import check_qk_norm_rotary, check_rotary
from reference_impl.contract import QKNorm, Rotary, Route


@triton.jit
def _load_halves(ptrs, half, mask):
    """Both halves of each head in float32; `ptrs` point at the first."""
    first = tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(ptrs + half, mask=mask, other=0.0).to(tl.float32)
    return first, second


@triton.jit
def _turn(first, second, cos_ptr, sin_ptr, offs_cos, offs_sin, half, mask):
    """x * cos + rotate_half(x) * sin on halves: [a, b] -> [a * cos - b * sin, b * cos + a * sin]."""
    cos_first, cos_second = _load_halves(cos_ptr + offs_cos, half, mask)
    sin_first, sin_second = _load_halves(sin_ptr + offs_sin, half, mask)
    return first * cos_first - second * sin_first, second * cos_second + first * sin_second


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
    offs_cos = (row * stride_cos)[:, None] + offs_d[None, :]
    offs_sin = (row * stride_sin)[:, None] + offs_d[None, :]
    first, second = _turn(first, second, cos_ptr, sin_ptr, offs_cos, offs_sin, HALF, mask)
    _store_halves(y_ptr + (offs * 2 * HALF)[:, None] + offs_d[None, :], first, second, HALF, mask)


@triton.jit(do_not_specialize=["n_rows", "n_text"])
def _qk_norm_rotary_kernel(
    qkv_ptr, q_gain_ptr, k_gain_ptr, cos_ptr, sin_ptr, q_ptr, k_ptr, rows_ptr,
    n_rows, n_text, n_heads, n_kv_heads, HALF,
    stride_qkv, stride_q_gain, stride_k_gain, stride_cos, stride_sin, eps,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_H heads of q and k. qkv [*, (n_heads + 2 n_kv_heads) * 2 HALF], q and k contiguous, rows int64."""
    position, row, head, mask_h = head_coordinates(rows_ptr, n_rows, n_heads + n_kv_heads, BLOCK_H)
    width = 2 * HALF
    offs_d = tl.arange(0, BLOCK_D)
    mask_d = (offs_d < HALF)[None, :]
    mask = mask_h[:, None] & mask_d
    first, second = _load_halves(qkv_ptr + (row * stride_qkv + head * width)[:, None] + offs_d[None, :], HALF, mask)
    scale = tl.rsqrt((tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)) / width + eps)
    expert = (position >= n_text).to(tl.int64)
    is_q = mask_h & (head < n_heads)
    is_k = mask_h & (head >= n_heads)
    mask_q, mask_k = is_q[:, None] & mask_d, is_k[:, None] & mask_d
    q_gain = _load_halves(q_gain_ptr + (expert * stride_q_gain)[:, None] + offs_d[None, :], HALF, mask_q)
    k_gain = _load_halves(k_gain_ptr + (expert * stride_k_gain)[:, None] + offs_d[None, :], HALF, mask_k)
    first = first * scale[:, None] * (q_gain[0] + k_gain[0])
    second = second * scale[:, None] * (q_gain[1] + k_gain[1])
    offs_cos = (row * stride_cos)[:, None] + offs_d[None, :]
    offs_sin = (row * stride_sin)[:, None] + offs_d[None, :]
    first, second = _turn(first, second, cos_ptr, sin_ptr, offs_cos, offs_sin, HALF, mask)
    q_ptrs = q_ptr + ((row * n_heads + head) * width)[:, None] + offs_d[None, :]
    k_ptrs = k_ptr + ((row * n_kv_heads + head - n_heads) * width)[:, None] + offs_d[None, :]
    _store_halves(q_ptrs, first, second, HALF, mask_q)
    _store_halves(k_ptrs, first, second, HALF, mask_k)


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
    block = HeadBlock.of(m * n_heads, d // 2)
    launch(
        _rotary_kernel, triton.cdiv(m * n_heads, block.heads), x,
        x, table.cos, table.sin, y,
        m, n_heads, d // 2, x.stride(0), x.stride(1), table.cos.stride(0), table.sin.stride(0),
        BLOCK_H=block.heads, BLOCK_D=block.width, num_warps=block.warps,
    )  # fmt: skip
    return y


def qk_norm_rotary(qkv: Tensor, norm: QKNorm, table: Rotary, route: Route) -> tuple[Tensor, Tensor, Tensor]:
    """Norm, then rotate, the q and k heads of a packed row in float32, rounded once; v as it is.

    qkv [M, (H + 2G) * d] with any row stride -> q [M, H, d], k [M, G, d], v [M, G, d], in qkv's dtype; v is a view.
    Raises ValueError or TypeError at the contract's door, NotImplementedError for a device, dtype or width without
    kernels.
    """
    check_qk_norm_rotary(qkv, norm, table, route)
    require_supported(qkv, norm.q_gain, norm.k_gain, table.cos, table.sin)
    require_unit_stride(qkv=qkv, q_gain=norm.q_gain, k_gain=norm.k_gain, cos=table.cos, sin=table.sin)
    m, d = qkv.shape[0], norm.head_dim
    q = torch.empty(m, norm.n_heads, d, dtype=qkv.dtype, device=qkv.device)
    k = torch.empty(m, norm.n_kv_heads, d, dtype=qkv.dtype, device=qkv.device)
    n_heads = m * (norm.n_heads + norm.n_kv_heads)
    block = HeadBlock.of(n_heads, d // 2)
    launch(
        _qk_norm_rotary_kernel, triton.cdiv(n_heads, block.heads), qkv,
        qkv, norm.q_gain, norm.k_gain, table.cos, table.sin, q, k, route.rows.contiguous(),
        m, route.n_text, norm.n_heads, norm.n_kv_heads, d // 2,
        qkv.stride(0), norm.q_gain.stride(0), norm.k_gain.stride(0), table.cos.stride(0), table.sin.stride(0),
        norm.eps,
        BLOCK_H=block.heads, BLOCK_D=block.width, num_warps=block.warps,
    )  # fmt: skip
    return q, k, qkv[:, -norm.n_kv_heads * d :].view(m, norm.n_kv_heads, d)
