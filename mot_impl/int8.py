"""Routed linear layers with int8 weights in one launch, for any GPU and any order of rows.

The operands are swapped against mot_impl/linear.py: a tile's rows are weights, its columns tokens, so that converted
weights can go from registers straight into the product, and few tokens make a small tile. K may be cut into pieces, so
that a layer of few rows keeps every multiprocessor reading: the block that ends last adds up the pieces, always in the
same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mot_impl.device import launch, require_supported, require_unit_stride
from mot_impl.products import add_product
from mot_impl.routing import tile_coordinates, tile_rows
from mot_impl.tile import Tile
from reference_impl.contract import Experts, Route, require


@triton.jit
def _last_one(done_ptr, tile, PIECES: tl.constexpr):
    """Count this block among those that have left their sums of a tile; whether it is the last. It puts the count back
    to zero for the next launch."""
    tl.debug_barrier()
    last = tl.atomic_add(done_ptr + tile, 1, sem="acq_rel") == PIECES - 1
    tl.debug_barrier()
    if last:
        tl.store(done_ptr + tile, 0)
    return last


@triton.jit
def _all_pieces(part_ptrs, PIECES: tl.constexpr, SIZE: tl.constexpr):
    """The sum of a tile's parts in the order of their pieces. Other blocks wrote them: .cg looks past this one's L1."""
    total = tl.load(part_ptrs, cache_modifier=".cg")
    for piece in range(1, PIECES):
        total += tl.load(part_ptrs + piece * SIZE, cache_modifier=".cg")
    return total


@triton.jit(do_not_specialize=["n_rows", "n_text"])
def _int8_kernel(
    x_ptr, w_ptr, scale_ptr, bias_ptr, y_ptr, rows_ptr, parts_ptr, done_ptr,
    n_rows, n_text, N, stride_x, stride_w_expert, stride_w,
    K: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, PIECES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """One piece of one [BLOCK_N, BLOCK_M] tile of y's transpose. x [*, K], w int8 [2, N, K], scale [2, N], bias [2, N],
    y [n_rows, N]; gated: w, scale and bias have 2N rows, gate rows first.

    K is a constant for the reasons given in mot_impl/linear.py. Rows that only fill a tile are not read: of one row, 16
    times, every multiprocessor would ask the same few lines of L2 (a third of the time at M = 1).
    """
    STEPS: tl.constexpr = (K + BLOCK_K * PIECES - 1) // (BLOCK_K * PIECES)
    WHOLE: tl.constexpr = STEPS * BLOCK_K * PIECES == K
    SIZE: tl.constexpr = BLOCK_N * BLOCK_M
    W_ROWS: tl.constexpr = 2 if GATED else 1
    tile, piece = tl.program_id(0) // PIECES, tl.program_id(0) % PIECES
    tiles_m = tl.cdiv(n_text, BLOCK_M) + tl.cdiv(n_rows - n_text, BLOCK_M)
    tile_m, tile_n = tile_coordinates(tile, tiles_m, tl.cdiv(N, BLOCK_N), GROUP_M)
    rows, mask_m, expert = tile_rows(rows_ptr, tile_m, n_text, n_rows, BLOCK_M)
    offs_n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = offs_n < N
    offs_k = piece * (STEPS * BLOCK_K) + tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + rows[:, None] * stride_x + offs_k[None, :]
    w_ptrs = w_ptr + expert * stride_w_expert + tl.where(mask_n, offs_n, 0)[:, None] * stride_w + offs_k[None, :]
    up_ptrs = w_ptrs + tl.cast(N, tl.int64) * stride_w
    acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    lost = tl.zeros_like(acc)
    up, up_lost = tl.zeros_like(acc), tl.zeros_like(acc)
    for step in range(STEPS):
        if WHOLE:
            x, w = tl.load(x_ptrs, mask=mask_m[:, None], other=0.0), tl.load(w_ptrs)
        else:
            there = offs_k < K - step * BLOCK_K
            x = tl.load(x_ptrs, mask=mask_m[:, None] & there[None, :], other=0.0)
            w = tl.load(w_ptrs, mask=there[None, :], other=0)
        acc, lost = add_product(acc, lost, w.to(x.dtype), tl.trans(x), False)
        if GATED:
            w_up = tl.load(up_ptrs) if WHOLE else tl.load(up_ptrs, mask=there[None, :], other=0)
            up, up_lost = add_product(up, up_lost, w_up.to(x.dtype), tl.trans(x), False)
            up_ptrs += BLOCK_K
        x_ptrs += BLOCK_K
        w_ptrs += BLOCK_K
    complete = True
    if PIECES > 1:
        part_ptrs = parts_ptr + tile.to(tl.int64) * (PIECES * W_ROWS * SIZE)
        part_ptrs += tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        tl.store(part_ptrs + piece * SIZE, acc)
        if GATED:
            tl.store(part_ptrs + (PIECES + piece) * SIZE, up)
        complete = _last_one(done_ptr, tile, PIECES)
    if complete:
        if PIECES > 1:
            acc = _all_pieces(part_ptrs, PIECES, SIZE)
            if GATED:
                up = _all_pieces(part_ptrs + PIECES * SIZE, PIECES, SIZE)
        one = expert * (W_ROWS * N) + offs_n
        acc *= tl.load(scale_ptr + one, mask=mask_n, other=0.0)[:, None]
        if HAS_BIAS:
            acc += tl.load(bias_ptr + one, mask=mask_n, other=0.0).to(tl.float32)[:, None]
        if GATED:
            up *= tl.load(scale_ptr + one + N, mask=mask_n, other=0.0)[:, None]
            if HAS_BIAS:
                up += tl.load(bias_ptr + one + N, mask=mask_n, other=0.0).to(tl.float32)[:, None]
            acc = acc * tl.sigmoid(acc) * up
        y_ptrs = y_ptr + rows[None, :] * N + offs_n[:, None]
        tl.store(y_ptrs, acc.to(y_ptr.dtype.element_ty), mask=mask_n[:, None] & mask_m[None, :])


_DONE: dict[tuple[torch.device, int, int], Tensor] = {}
"""How many blocks have left their sums of each tile, all zero between launches. The launches of one stream share a set
in turn."""


def _done(n_tiles: int, device: torch.device) -> Tensor:
    """[n_tiles] int32, all zero. A graph captured on a stream that has not called before gets its own."""
    on_gpu = device.type == "cuda"
    key = (device, torch.cuda.current_stream(device).cuda_stream if on_gpu else 0, n_tiles)
    done = _DONE.get(key)
    if done is None:
        done = torch.zeros(n_tiles, dtype=torch.int32, device=device)
        if not (on_gpu and torch.cuda.is_current_stream_capturing()):
            _DONE[key] = done
    return done


def routed(x: Tensor, experts: Experts, route: Route, tile: Tile, gated: bool) -> Tensor:
    """linear or gated_linear of int8 experts: x [M, K], experts [2, N, K] -> [M, N], or [M, N / 2] if gated.

    float32, float16 or bfloat16; the weights are converted to that, sums in float32, times the scale of the weight row,
    rounded once. Raises NotImplementedError for a device or dtype without kernels, ValueError for a last axis that is
    not contiguous.
    """
    weight, bias, scale = experts.weight, experts.bias, experts.scale
    require_supported(x, weight, *(() if bias is None else (bias,)))
    require_unit_stride(x=x, weight=weight)
    require(tile.kind == "gather", "tile {} is of kind {!r}; this kernel takes 'gather'", tile, tile.kind)
    (m, k), n = x.shape, experts.n_out // (2 if gated else 1)
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    n_tiles = triton.cdiv(route.n_text, tile.block_m) + triton.cdiv(route.n_image, tile.block_m)
    n_tiles *= triton.cdiv(n, tile.block_n)
    pieces = max(tile.pieces, 1)
    parts, done = y, y
    if pieces > 1:
        size = n_tiles * pieces * (2 if gated else 1) * tile.block_n * tile.block_m
        parts, done = torch.empty(size, dtype=torch.float32, device=x.device), _done(n_tiles, x.device)
    launch(
        _int8_kernel, n_tiles * pieces, x,
        x, weight, scale.contiguous(), y if bias is None else bias.contiguous(), y, route.rows.contiguous(),
        parts, done,
        route.n_rows, route.n_text, n, x.stride(0), weight.stride(0), weight.stride(1),
        K=k, GATED=gated, HAS_BIAS=bias is not None, PIECES=pieces,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, GROUP_M=tile.group_m,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y
