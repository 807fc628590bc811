"""The gated MLP: gate, up and SiLU(gate) * up in one launch, then the down layer in another."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mot_impl import int8
from mot_impl.linear import launch_routed, linear, on_hopper, operand
from mot_impl.products import Accumulation, add_product
from mot_impl.routing import tile_coordinates, tile_rows
from mot_impl.tiles import TileTable
from reference_impl.checks import check_gated_linear, check_gated_mlp
from reference_impl.contract import Experts, Problem, Route, Rows


@triton.jit(do_not_specialize=["n_rows", "n_text"])
def _gated_kernel(
    x_ptr, w_ptr, bias_ptr, x_scale_ptr, w_scale_ptr, y_ptr, rows_ptr,
    n_rows, n_text, N, stride_x, stride_w_expert, stride_w,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, SCALED: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """One [BLOCK_M, BLOCK_N] tile of y. x [*, K], w [2, 2N, K] gate rows first, bias [2, 2N], y [n_rows, N].

    SCALED, WIDEN and the scales are those of _linear_kernel, w_scale [2, 2N].
    """
    tiles_m = tl.cdiv(n_text, BLOCK_M) + tl.cdiv(n_rows - n_text, BLOCK_M)
    tile_m, tile_n = tile_coordinates(tl.program_id(0), tiles_m, tl.cdiv(N, BLOCK_N), GROUP_M)
    rows, mask_m, expert = tile_rows(rows_ptr, tile_m, n_text, n_rows, BLOCK_M)
    offs_n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = offs_n < N
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + rows[:, None] * stride_x + offs_k[None, :]
    gate_ptrs = w_ptr + expert * stride_w_expert + tl.where(mask_n, offs_n, 0)[None, :] * stride_w + offs_k[:, None]
    up_ptrs = gate_ptrs + tl.cast(N, tl.int64) * stride_w
    gate = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    up, gate_lost, up_lost = tl.zeros_like(gate), tl.zeros_like(gate), tl.zeros_like(gate)
    for k in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x, w_gate, w_up = tl.load(x_ptrs), tl.load(gate_ptrs), tl.load(up_ptrs)
        else:
            x = tl.load(x_ptrs, mask=(offs_k < K - k)[None, :], other=0.0)
            w_gate = tl.load(gate_ptrs, mask=(offs_k < K - k)[:, None], other=0.0)
            w_up = tl.load(up_ptrs, mask=(offs_k < K - k)[:, None], other=0.0)
        gate, gate_lost = add_product(gate, gate_lost, x, w_gate, WIDEN)
        up, up_lost = add_product(up, up_lost, x, w_up, WIDEN)
        x_ptrs += BLOCK_K
        gate_ptrs += BLOCK_K
        up_ptrs += BLOCK_K
    if SCALED:
        scale_ptrs = w_scale_ptr + expert * 2 * N + offs_n
        gate *= tl.load(scale_ptrs, mask=mask_n, other=0.0)[None, :]
        up *= tl.load(scale_ptrs + N, mask=mask_n, other=0.0)[None, :]
        x_scale = tl.load(x_scale_ptr + rows)[:, None]
        gate *= x_scale
        up *= x_scale
    if HAS_BIAS:
        bias_ptrs = bias_ptr + expert * 2 * N + offs_n
        gate += tl.load(bias_ptrs, mask=mask_n, other=0.0).to(tl.float32)[None, :]
        up += tl.load(bias_ptrs + N, mask=mask_n, other=0.0).to(tl.float32)[None, :]
    y = gate * tl.sigmoid(gate) * up
    y_ptrs = y_ptr + rows[:, None] * N + offs_n[None, :]
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_n[None, :])


def gated_linear(
    x: Rows, gate_up: Experts, route: Route, tiles: TileTable, accumulation: Accumulation = "fast"
) -> Tensor:
    """SiLU(gate) * up, where [gate | up] = linear(x, gate_up); all of it in float32, rounded once.

    x [M, K] with any row stride, gate_up [2, 2I, K] with the gate rows first -> [M, I]. Raises ValueError or TypeError
    at the contract's door, NotImplementedError for a device or dtype without kernels.
    """
    check_gated_linear(x, gate_up, route)
    x = operand(x, gate_up, route)
    n_out = gate_up.n_out // 2
    problem = Problem("gated_linear", x.shape[0], n_out, x.shape[1], x.dtype, x.device, route.image_first, gate_up.kind)
    tile = tiles.choose(problem).tile
    if tile.kind == "hopper":
        return on_hopper(x, gate_up, route, tile, gated=True, accumulation=accumulation)
    if isinstance(x, Tensor) and gate_up.kind == "int8":
        return int8.routed(x, gate_up, route, tile, gated=True)
    y = torch.empty(x.shape[0], n_out, dtype=x.dtype, device=x.device)
    launch_routed(_gated_kernel, x, gate_up, y, route, tile, accumulation)
    return y


def gated_mlp(
    x: Rows, gate_up: Experts, down: Experts, route: Route, tiles: TileTable, accumulation: Accumulation = "fast"
) -> Tensor:
    """linear(gated_linear(x, gate_up), down): x [M, K], gate_up [2, 2I, K], down [2, K, I] -> [M, K]."""
    check_gated_mlp(x, gate_up, down, route)
    return linear(gated_linear(x, gate_up, route, tiles, accumulation), down, route, tiles, accumulation)
