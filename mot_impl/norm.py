"""Routed RMSNorm in one launch, over a row and over each head of a row: a row of width K is one head of width K. And
of the sum of two rows, which is stored too. The result as it is, or in fp8."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from mot_impl.device import INTERPRETED, launch, require_fp8, require_supported, require_unit_stride
from mot_impl.quantise import PER_WARP, WIDEST, empty_rows, fp8_bits, magnitude, scale_of
from reference_impl.checks import check_add_norm, check_input_scale, check_norm
from reference_impl.contract import QuantisedRows, Route, require


@dataclass(frozen=True)
class HeadBlock:
    """How a norm or rotary kernel divides its problem: `heads` of padded `width` per program."""

    heads: int
    width: int
    warps: int

    @classmethod
    def of(cls, n_heads: int, width: int) -> "HeadBlock":
        """About 4096 elements a program; in the interpreter, whose cost is per program, far more."""
        require(width <= WIDEST, "width is {} but the norm takes at most {}", width, WIDEST, error=NotImplementedError)
        padded = triton.next_power_of_2(max(width, 1))
        most = max(1, (2**20 if INTERPRETED else 4096) // padded)
        heads = min(most, triton.next_power_of_2(max(n_heads, 1)))
        return cls(heads, padded, min(32, max(4, heads * padded // PER_WARP)))

    def __str__(self) -> str:
        return f"{self.heads}x{self.width} w{self.warps} ({'interpreter' if INTERPRETED else 'heuristic'})"


@triton.jit
def head_coordinates(rows_ptr, n_rows, n_heads, BLOCK_H: tl.constexpr):
    """(position in the route, row, head, mask), each int64 [BLOCK_H], of the heads of this program."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    position = offs // n_heads
    mask = position < n_rows
    return position, tl.load(rows_ptr + position, mask=mask, other=0), offs % n_heads, mask


@triton.jit(do_not_specialize=["n_rows", "n_text"])
def _norm_kernel(
    x_ptr, gain_ptr, y_ptr, rows_ptr,
    n_rows, n_text, n_heads, D, stride_x, stride_x_head, stride_gain, eps,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_H heads of y. x [*, n_heads, D], gain [2, D], y [n_rows, n_heads, D], rows int64 [n_rows]."""
    position, row, head, mask_h = head_coordinates(rows_ptr, n_rows, n_heads, BLOCK_H)
    offs_d = tl.arange(0, BLOCK_D)
    mask = mask_h[:, None] & (offs_d < D)[None, :]
    x_ptrs = x_ptr + (row * stride_x + head * stride_x_head)[:, None] + offs_d[None, :]
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / D + eps)
    expert = (position >= n_text).to(tl.int64)
    gain = tl.load(gain_ptr + (expert * stride_gain)[:, None] + offs_d[None, :], mask=mask, other=0.0).to(tl.float32)
    y = x * scale[:, None] * gain
    y_ptrs = y_ptr + ((row * n_heads + head) * D)[:, None] + offs_d[None, :]
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_rows", "n_text"])
def _add_norm_kernel(
    x_ptr, other_ptr, gain_ptr, sum_ptr, y_ptr, rows_ptr,
    n_rows, n_text, D, stride_x, stride_other, stride_gain, eps,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_H rows of sum and y. x and other [*, D], gain [2, D], sum and y [n_rows, D], rows int64 [n_rows]."""
    position, row, _, mask_h = head_coordinates(rows_ptr, n_rows, 1, BLOCK_H)
    offs_d = tl.arange(0, BLOCK_D)
    mask = mask_h[:, None] & (offs_d < D)[None, :]
    x = tl.load(x_ptr + (row * stride_x)[:, None] + offs_d[None, :], mask=mask, other=0.0).to(tl.float32)
    other = tl.load(other_ptr + (row * stride_other)[:, None] + offs_d[None, :], mask=mask, other=0.0).to(tl.float32)
    offs = (row * D)[:, None] + offs_d[None, :]
    # What is normalised is the sum as stored: rounded, as the next layer will see it.
    total = (x + other).to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + offs, total, mask=mask)
    total = total.to(tl.float32)
    expert = (position >= n_text).to(tl.int64)
    gain = tl.load(gain_ptr + (expert * stride_gain)[:, None] + offs_d[None, :], mask=mask, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(total * total, axis=1) / D + eps)
    tl.store(y_ptr + offs, (total * scale[:, None] * gain).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_rows", "n_text"])
def _quantised_norm_kernel(
    x_ptr, other_ptr, gain_ptr, sum_ptr, values_ptr, scale_ptr, input_scale_ptr, rows_ptr,
    n_rows, n_text, D, stride_x, stride_other, stride_gain, eps,
    ADD: tl.constexpr, FIXED: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_H rows of values and scale, and of sum if ADD. x and other [*, D], gain [2, D], sum [n_rows, D], values
    [n_rows, D] as bytes, scale [n_rows], input_scale [2] if FIXED, rows int64 [n_rows]."""
    position, row, _, mask_h = head_coordinates(rows_ptr, n_rows, 1, BLOCK_H)
    offs_d = tl.arange(0, BLOCK_D)
    mask = mask_h[:, None] & (offs_d < D)[None, :]
    x = tl.load(x_ptr + (row * stride_x)[:, None] + offs_d[None, :], mask=mask, other=0.0).to(tl.float32)
    offs = (row * D)[:, None] + offs_d[None, :]
    if ADD:
        other_ptrs = other_ptr + (row * stride_other)[:, None] + offs_d[None, :]
        total = (x + tl.load(other_ptrs, mask=mask, other=0.0).to(tl.float32)).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + offs, total, mask=mask)
        x = total.to(tl.float32)
    expert = (position >= n_text).to(tl.int64)
    gain = tl.load(gain_ptr + (expert * stride_gain)[:, None] + offs_d[None, :], mask=mask, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=1) / D + eps)[:, None] * gain
    # What is quantised is the norm as it would have been stored: rounded.
    y = y.to(x_ptr.dtype.element_ty).to(tl.float32)
    scale = tl.load(input_scale_ptr + expert) if FIXED else scale_of(magnitude(y))
    tl.store(scale_ptr + row, scale, mask=mask_h)
    tl.store(values_ptr + offs, fp8_bits(y, scale, FIXED), mask=mask)


def rms_norm(x: Tensor, gain: Tensor, route: Route, eps: float) -> Tensor:
    """y[row] = x[row] / sqrt(mean(x[row]^2) + eps) * gain[expert of row], in float32, rounded once.

    x [M, K] with any row stride, gain [2, K] -> [M, K] in x's dtype. Raises ValueError or TypeError at the contract's
    door, NotImplementedError for a device, dtype or width without kernels.
    """
    require(x.ndim == 2, "x has shape {} but must be [M, K]", tuple(x.shape))
    check_norm(x, gain, route)
    return _normalise(x[:, None, :], gain, route, eps)[:, 0, :]


def head_rms_norm(x: Tensor, gain: Tensor, route: Route, eps: float) -> Tensor:
    """The same over the last axis of x [M, heads, d]; gain [2, d] is shared by all heads of an expert."""
    require(x.ndim == 3, "x has shape {} but must be [M, heads, d]", tuple(x.shape))
    check_norm(x, gain, route)
    return _normalise(x, gain, route, eps)


def add_rms_norm(x: Tensor, other: Tensor, gain: Tensor, route: Route, eps: float) -> tuple[Tensor, Tensor]:
    """(s, rms_norm(s, gain)) with s = x + other, rounded before it is normalised.

    x and other [M, K] with any row stride, gain [2, K] -> two of [M, K] in x's dtype. Raises ValueError or TypeError at
    the contract's door, NotImplementedError for a device, dtype or width without kernels.
    """
    check_add_norm(x, other, gain, route)
    require_supported(x, other, gain)
    require_unit_stride(x=x, other=other, gain=gain)
    m, k = x.shape
    # Two rows at once: twice the registers.
    require(2 * k <= WIDEST, "width is {} but add_rms_norm takes at most {}", k, WIDEST // 2, error=NotImplementedError)
    total, y = (torch.empty(m, k, dtype=x.dtype, device=x.device) for _ in range(2))
    block = HeadBlock.of(m, k)
    launch(
        _add_norm_kernel, triton.cdiv(m, block.heads), x,
        x, other, gain, total, y, route.rows.contiguous(),
        m, route.n_text, k, x.stride(0), other.stride(0), gain.stride(0), eps,
        BLOCK_H=block.heads, BLOCK_D=block.width, num_warps=block.warps,
    )  # fmt: skip
    return total, y


def quantised_rms_norm(
    x: Tensor, gain: Tensor, route: Route, eps: float, input_scale: Tensor | None = None
) -> QuantisedRows:
    """quantise_rows(rms_norm(x, gain)) in one launch, the norm rounded to x's dtype before it is quantised.

    x [M, K] with any row stride, gain [2, K], input_scale [2] or None -> M rows of K. Raises ValueError or TypeError at
    the contract's door, NotImplementedError for a device, dtype or width without kernels.
    """
    require(x.ndim == 2, "x has shape {} but must be [M, K]", tuple(x.shape))
    check_norm(x, gain, route)
    return _quantised(x, None, gain, route, eps, input_scale)[1]


def quantised_add_rms_norm(
    x: Tensor, other: Tensor, gain: Tensor, route: Route, eps: float, input_scale: Tensor | None = None
) -> tuple[Tensor, QuantisedRows]:
    """(s, quantise_rows(rms_norm(s, gain))) with s = x + other, rounded, in one launch.

    x and other [M, K] with any row stride, gain [2, K], input_scale [2] or None -> [M, K] in x's dtype, and M rows.
    Raises as quantised_rms_norm.
    """
    check_add_norm(x, other, gain, route)
    return _quantised(x, other, gain, route, eps, input_scale)


def _quantised(
    x: Tensor, other: Tensor | None, gain: Tensor, route: Route, eps: float, input_scale: Tensor | None
) -> tuple[Tensor, QuantisedRows]:
    """x, or its sum with `other`; and the norm of that."""
    check_input_scale(input_scale, x)
    require_supported(x, gain, *(() if other is None else (other,)))
    require_fp8(x.dtype, x.device)
    require_unit_stride(x=x, other=other, gain=gain)
    m, k = x.shape
    require(
        2 * k <= WIDEST,
        "width is {} but a norm that quantises takes at most {}",
        k,
        WIDEST // 2,
        error=NotImplementedError,
    )
    total = x if other is None else torch.empty(m, k, dtype=x.dtype, device=x.device)
    found, block = empty_rows(x), HeadBlock.of(m, k)
    launch(
        _quantised_norm_kernel, triton.cdiv(m, block.heads), x,
        x, x if other is None else other, gain, total, found.values.view(torch.uint8), found.scale,
        found.scale if input_scale is None else input_scale.contiguous(), route.rows.contiguous(),
        m, route.n_text, k, x.stride(0), 0 if other is None else other.stride(0), gain.stride(0), eps,
        ADD=other is not None, FIXED=input_scale is not None,
        BLOCK_H=block.heads, BLOCK_D=block.width, num_warps=block.warps,
    )  # fmt: skip
    return total, found


def _normalise(x: Tensor, gain: Tensor, route: Route, eps: float) -> Tensor:
    require_supported(x, gain)
    require_unit_stride(x=x, gain=gain)
    m, n_heads, d = x.shape
    y = torch.empty(m, n_heads, d, dtype=x.dtype, device=x.device)
    block = HeadBlock.of(m * n_heads, d)
    launch(
        _norm_kernel, triton.cdiv(m * n_heads, block.heads), x,
        x, gain, y, route.rows.contiguous(),
        m, route.n_text, n_heads, d, x.stride(0), x.stride(1), gain.stride(0), eps,
        BLOCK_H=block.heads, BLOCK_D=block.width, num_warps=block.warps,
    )  # fmt: skip
    return y
