"""The routed linear layer in one launch: row tiles of both experts, rows gathered by index."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mot_impl import int8
from mot_impl.device import INTERPRETED, launch, require_fp8, require_supported, require_unit_stride
from mot_impl.products import Accumulation, add_product
from mot_impl.quantise import quantise_rows
from mot_impl.routing import tile_coordinates, tile_rows
from mot_impl.tiles import Tile, TileTable
from reference_impl.checks import check_linear
from reference_impl.contract import Experts, Problem, QuantisedRows, Route, Rows, require


@triton.jit(do_not_specialize=["n_rows", "n_text"])
def _linear_kernel(
    x_ptr, w_ptr, bias_ptr, x_scale_ptr, w_scale_ptr, y_ptr, rows_ptr,
    n_rows, n_text, N, stride_x, stride_w_expert, stride_w,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, SCALED: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """One [BLOCK_M, BLOCK_N] tile of y. x [*, K], w [2, N, K], bias [2, N], y [n_rows, N], rows int64 [n_rows].

    SCALED: fp8 experts, whose w_scale [2, N] and x_scale [n_rows] are read. WIDEN: add_product's.
    K is a constant: a model has few, the loop's masks fall away where it is a multiple, and the interpreter cannot
    turn a tensor into a loop's end with NumPy 2.4 and newer.
    """
    tiles_m = tl.cdiv(n_text, BLOCK_M) + tl.cdiv(n_rows - n_text, BLOCK_M)
    tile_m, tile_n = tile_coordinates(tl.program_id(0), tiles_m, tl.cdiv(N, BLOCK_N), GROUP_M)
    rows, mask_m, expert = tile_rows(rows_ptr, tile_m, n_text, n_rows, BLOCK_M)
    offs_n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = offs_n < N
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + rows[:, None] * stride_x + offs_k[None, :]
    w_ptrs = w_ptr + expert * stride_w_expert + tl.where(mask_n, offs_n, 0)[None, :] * stride_w + offs_k[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    lost = tl.zeros_like(acc)
    for k in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x, w = tl.load(x_ptrs), tl.load(w_ptrs)
        else:
            x = tl.load(x_ptrs, mask=(offs_k < K - k)[None, :], other=0.0)
            w = tl.load(w_ptrs, mask=(offs_k < K - k)[:, None], other=0.0)
        acc, lost = add_product(acc, lost, x, w, WIDEN)
        x_ptrs += BLOCK_K
        w_ptrs += BLOCK_K
    if SCALED:
        acc *= tl.load(w_scale_ptr + expert * N + offs_n, mask=mask_n, other=0.0)[None, :]
        acc *= tl.load(x_scale_ptr + rows)[:, None]
    if HAS_BIAS:
        acc += tl.load(bias_ptr + expert * N + offs_n, mask=mask_n, other=0.0).to(tl.float32)[None, :]
    y_ptrs = y_ptr + rows[:, None] * N + offs_n[None, :]
    tl.store(y_ptrs, acc.to(y_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_n[None, :])


def linear(x: Rows, experts: Experts, route: Route, tiles: TileTable, accumulation: Accumulation = "fast") -> Tensor:
    """y[row] = x[row] @ W[expert of row].T + b[expert of row], accumulated in float32 and rounded once.

    x [M, K] with any row stride, experts [2, N, K] -> [M, N] in x's dtype. float32 is multiplied in full (IEEE, no
    TF32). Quantised experts: the sum is multiplied by the scales of its row and column before the bias is added; fp8
    experts quantise an x that is not yet. Raises ValueError or TypeError at the contract's door, NotImplementedError
    for a device or dtype without kernels.
    """
    check_linear(x, experts, route)
    x = operand(x, experts, route)
    (m, k), n = x.shape, experts.n_out
    problem = Problem("linear", m, n, k, x.dtype, x.device, route.image_first, experts.kind)
    tile = tiles.choose(problem).tile
    if tile.kind == "hopper":
        return on_hopper(x, experts, route, tile, gated=False, accumulation=accumulation)
    if isinstance(x, Tensor) and experts.kind == "int8":
        return int8.routed(x, experts, route, tile, gated=False)
    y = torch.empty(x.shape[0], experts.n_out, dtype=x.dtype, device=x.device)
    launch_routed(_linear_kernel, x, experts, y, route, tile, accumulation)
    return y


def operand(x: Rows, experts: Experts, route: Route) -> Rows:
    """x as the kernels for these experts take it, quantised for fp8 ones. Raises NotImplementedError where there are
    none, ValueError for a last axis that is not contiguous."""
    if experts.kind == "fp8":
        require_fp8(x.dtype, x.device)
        if isinstance(x, Tensor):
            x = quantise_rows(x, route, experts.input_scale)
    tensors = (experts.weight, experts.bias, experts.scale)
    require_supported(x, *(tensor for tensor in tensors if tensor is not None))
    require_unit_stride(x=x.values if isinstance(x, QuantisedRows) else x, weight=experts.weight)
    return x


def on_hopper(x: Rows, experts: Experts, route: Route, tile: Tile, gated: bool, accumulation: Accumulation) -> Tensor:
    """The Hopper kernel. Imported when first wanted: its Gluon is that of one Triton, and only one chip runs it."""
    if isinstance(x, Tensor) and experts.kind == "int8":
        from mot_impl import hopper_int8_launch

        return hopper_int8_launch.routed(x, experts, route, tile, gated)
    from mot_impl.hopper_launch import routed

    return routed(x, experts, route, tile, gated, exact=experts.kind == "fp8" and accumulation == "exact")


def launch_routed(
    kernel: triton.JITFunction,
    x: Rows,
    experts: Experts,
    y: Tensor,
    route: Route,
    tile: Tile,
    accumulation: Accumulation = "fast",
) -> None:
    """Launch a routed matrix kernel over the row tiles of both experts and the column tiles of y [M, N].

    The grid comes from Python integers: nothing waits for the device.
    """
    require(tile.kind == "gather", "tile {} is of kind {!r}; this kernel takes 'gather'", tile, tile.kind)
    require(tile.pieces == 0, "tile {} has pieces={}; only the kernel of int8 weights cuts K", tile, tile.pieces)
    n, k = y.shape[1], x.shape[1]
    row_tiles = triton.cdiv(route.n_text, tile.block_m) + triton.cdiv(route.n_image, tile.block_m)
    w, bias, scale = experts.weight, experts.bias, experts.scale
    values, x_scale = (x.values, x.scale) if isinstance(x, QuantisedRows) else (x, None)
    launch(
        kernel, row_tiles * triton.cdiv(n, tile.block_n), values,
        values, w, w if bias is None else bias.contiguous(), y if x_scale is None else x_scale.contiguous(),
        y if scale is None else scale.contiguous(), y, route.rows.contiguous(),
        route.n_rows, route.n_text, n, values.stride(0), w.stride(0), w.stride(1),
        K=k, HAS_BIAS=bias is not None, SCALED=experts.kind == "fp8",
        WIDEN=experts.kind == "fp8" and (INTERPRETED or accumulation == "exact"),
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, GROUP_M=tile.group_m,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
