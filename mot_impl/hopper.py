"""Routed linear layers for Hopper (sm_90) in Gluon. Only this file knows Gluon, whose names change with each Triton.

One thread block per multiprocessor. One warp streams tiles with TMA into a ring of shared-memory slots; two warpgroups
multiply, 64 x 256 of a 128 x 256 output tile each, independently of each other, so that one computes while the other
stores. An expert with at most 16 rows is *narrow*: its weights are the 256-row side of the product and its tokens the
16-column side, and one narrow step follows every few steps of the other expert. Who computes what in which order is
data (mot_impl/schedule.py), not program logic.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from mot_impl import schedule
from mot_impl.tiles import Tile
from reference_impl.contract import Experts, Route, require

FOREVER = gl.constexpr(1 << 30)


@gluon.jit
def _load_weights(w_desc, bar, b, row, k, N, GATED: gl.constexpr):
    """256 weight rows of one step: neighbours, or 128 gate rows and the 128 up rows that belong to them."""
    if GATED:
        tma.async_copy_global_to_shared(w_desc, [row, k], bar, b.slice(0, 128, dim=0))
        tma.async_copy_global_to_shared(w_desc, [row + N // 2, k], bar, b.slice(128, 128, dim=0))
    else:
        tma.async_copy_global_to_shared(w_desc, [row, k], bar, b)


@gluon.jit
def _fetch_range(items, i):
    """The first five entries of row i of a work list: all that the loading warp needs. A list ends in rows of zeros,
    so that looking ahead needs no check, and the first look does not wait for the list's length."""
    p = items + i * 8
    return gl.load(p), gl.load(p + 1), gl.load(p + 2), gl.load(p + 3), gl.load(p + 4)


@gluon.jit
def _fetch(items, i):
    """Row i of a work list."""
    p = items + i * 8
    return (
        gl.load(p),
        gl.load(p + 1),
        gl.load(p + 2),
        gl.load(p + 3),
        gl.load(p + 4),
        gl.load(p + 5),
        gl.load(p + 6),
        gl.load(p + 7),
    )


@gluon.jit
def _produce(x_text, x_image, x_narrow, w_desc, a_ring, b_ring, ready, free, head, wide, narrow, wide_rows,
             narrow_rows, N, narrow_expert, GATED: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """Fill the ring in exactly the order in which _consume empties it."""
    TILE_N: gl.constexpr = 128 if GATED else 256
    pid = gl.program_id(0)
    i = pid * wide_rows
    i_end = i + gl.load(head + pid * 4)
    j = pid * narrow_rows
    j_end = j + gl.load(head + pid * 4 + 1)
    every = gl.load(head + pid * 4 + 2)
    slot = 0
    phase = 1
    left = FOREVER
    if j < j_end:
        left = every
    item = _fetch_range(wide, i)
    ahead = _fetch_range(wide, i + 1)
    k = item[3]
    part = _fetch_range(narrow, j)
    part_ahead = _fetch_range(narrow, j + 1)
    t = part[1]
    while (i < i_end) | (j < j_end):
        if i < i_end:
            steps = gl.minimum(item[4] - k, left)
            expert = item[0] & 1
            w_row = expert * N + item[2] * TILE_N
            for _ in range(steps):
                bar = ready.index(slot)
                mbarrier.wait(free.index(slot), phase)
                mbarrier.expect(bar, (128 + 256) * 64 * 2)
                if expert == 0:
                    tma.async_copy_global_to_shared(x_text, [item[1], k * 64], bar, a_ring.index(slot))
                else:
                    tma.async_copy_global_to_shared(x_image, [item[1], k * 64], bar, a_ring.index(slot))
                _load_weights(w_desc, bar, b_ring.index(slot), w_row, k * 64, N, GATED)
                k += 1
                slot += 1
                if slot == STAGES:
                    slot = 0
                    phase ^= 1
            left -= steps
            if k == item[4]:
                i += 1
                item = ahead
                k = item[3]
                ahead = _fetch_range(wide, i + 1)
        if (j < j_end) & ((left == 0) | (i == i_end)):
            bar = ready.index(slot)
            mbarrier.wait(free.index(slot), phase)
            mbarrier.expect(bar, (16 + 256) * 64 * 2)
            tma.async_copy_global_to_shared(x_narrow, [0, t * 64], bar, a_ring.index(slot).slice(0, 16, dim=0))
            _load_weights(w_desc, bar, b_ring.index(slot), narrow_expert * N + part[0] * TILE_N, t * 64, N, GATED)
            slot += 1
            if slot == STAGES:
                slot = 0
                phase ^= 1
            t += 1
            left = every
            if t == part[2]:
                j += 1
                part = part_ahead
                t = part[1]
                part_ahead = _fetch_range(narrow, j + 1)
                if j == j_end:
                    left = FOREVER


@gluon.jit
def _halves(x):
    """[R, C] -> [R, C/2] twice, without moving a value between threads."""
    R: gl.constexpr = x.shape[0]
    C: gl.constexpr = x.shape[1]
    return x.reshape([R, 2, C // 2]).permute([0, 2, 1]).split()


@gluon.jit
def _silu_mul(gate, up):
    return gate * up / (1.0 + gl.exp2(gate * -1.4426950408889634))


@gluon.jit
def _fence():
    """Order this thread's accesses for all blocks: before a flag is raised, and after one was seen."""
    gl.inline_asm_elementwise(
        "fence.acq_rel.gpu; mov.u32 $0, $1;", "=r,r", [gl.to_tensor(0)], gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _await_four(flags, first, last, skip, STRIDE: gl.constexpr):
    """Wait for the parts first .. first + 3, those below `last` and without `skip`; lower their flags again, so that
    the next launch finds them down. Four at a time, because each look costs a round trip to L2."""
    there = 0
    while there == 0:
        there = 1
        for q in gl.static_range(4):
            s = first + q
            there &= gl.load(flags + s * STRIDE, mask=(s < last) & (s != skip), other=1, volatile=True)
    _fence()
    gl.thread_barrier()
    for q in gl.static_range(4):
        s = first + q
        gl.store(flags + s * STRIDE, 0, mask=(s < last) & (s != skip))


@gluon.jit
def _put(chunk, desc, out, buffer: gl.constexpr, row, col):
    """Store one [64, 64] chunk through shared memory; two buffers, so that a store overlaps the next conversion."""
    tma.store_wait(pendings=1)
    out.index(buffer).store(chunk.to(desc.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(desc, [row, col], out.index(buffer))


@gluon.jit
def _store_pair(first, second, pair: gl.constexpr, desc, out, row, col, GATED: gl.constexpr):
    """Two chunks 128 columns apart: both as they are, or SiLU(first) * second. Buffers must alternate."""
    if GATED:
        _put(_silu_mul(first, second), desc, out, pair, row, col)
    else:
        _put(first, desc, out, 0, row, col)
        _put(second, desc, out, 1, row, col + 128)


@gluon.jit
def _part_offsets(chunk):
    r = gl.arange(0, 64, layout=gl.SliceLayout(1, chunk.type.layout)).to(gl.int64)
    c = gl.arange(0, 64, layout=gl.SliceLayout(0, chunk.type.layout)).to(gl.int64)
    return r[:, None] * 64 + c[None, :]


@gluon.jit
def _leave_pair(first, second, pair: gl.constexpr, item, parts, WG: gl.constexpr):
    """Unless this block owns the pair: leave it for the block that does."""
    expert_own, _, _, _, _, slot, _, _ = item
    UNIT: gl.constexpr = WG * 2 + pair
    if (expert_own >> (8 + UNIT)) & 1 == 0:
        part = parts + (slot.to(gl.int64) * 4 + UNIT) * (64 * 128)
        gl.store(part + _part_offsets(first), first)
        gl.store(part + 64 * 64 + _part_offsets(second), second)


@gluon.jit
def _finish_pair(first, second, pair: gl.constexpr, y_text, y_image, out, item, parts, flags, WG: gl.constexpr,
                 GATED: gl.constexpr):  # fmt: skip
    """If this block owns the pair: add the parts of the others, always in the order of their slots, and store it."""
    expert_own, row, n_tile, _, _, slot, get_first, get_last = item
    UNIT: gl.constexpr = WG * 2 + pair
    if (expert_own >> (8 + UNIT)) & 1:
        if get_first < get_last:
            _await_four(flags + UNIT, get_first, get_last, slot, 4)
            for s in range(get_first, get_last):
                if s != slot:
                    part = parts + (s.to(gl.int64) * 4 + UNIT) * (64 * 128)
                    first += gl.load(part + _part_offsets(first))
                    second += gl.load(part + 64 * 64 + _part_offsets(second))
        col = n_tile * (128 if GATED else 256) + pair * 64
        if expert_own & 1 == 0:
            _store_pair(first, second, pair, y_text, out, row + WG * 64, col, GATED)
        else:
            _store_pair(first, second, pair, y_image, out, row + WG * 64, col, GATED)


@gluon.jit
def _finish_wide(acc, b, y_text, y_image, out, item, parts, flags, WG: gl.constexpr, GATED: gl.constexpr,
                 HAS_BIAS: gl.constexpr):  # fmt: skip
    """Store 64 x 256 sums. Of a tile that several blocks share, each owns some pairs of chunks and leaves the rest."""
    expert_own, _, _, _, _, slot, _, _ = item
    if HAS_BIAS:
        acc += gl.convert_layout(b, gl.SliceLayout(0, acc.type.layout))[None, :]
    lo, hi = _halves(acc)
    c0, c1 = _halves(lo)
    c2, c3 = _halves(hi)
    if slot >= 0:
        _leave_pair(c0, c2, 0, item, parts, WG)
        _leave_pair(c1, c3, 1, item, parts, WG)
        _fence()
        gl.thread_barrier()
        for pair in gl.static_range(2):
            if (expert_own >> (8 + WG * 2 + pair)) & 1 == 0:
                gl.store(flags + slot * 4 + WG * 2 + pair, 1)
        # A block that owns one pair only breaks the alternation of buffers.
        tma.store_wait(pendings=0)
    _finish_pair(c0, c2, 0, y_text, y_image, out, item, parts, flags, WG, GATED)
    _finish_pair(c1, c3, 1, y_text, y_image, out, item, parts, flags, WG, GATED)
    if slot >= 0:
        tma.store_wait(pendings=0)


@gluon.jit
def _store_narrow(acc, y, col, n_out, n_rows, LN: gl.constexpr):
    offs_t = gl.arange(0, 16, layout=gl.SliceLayout(0, LN))[None, :]
    mask = (col < n_out)[:, None] & (offs_t < n_rows)
    gl.store(y + offs_t.to(gl.int64) * n_out + col[:, None], acc.to(y.dtype.element_ty), mask=mask)


@gluon.jit
def _finish_narrow(n0, n1, y, item, bias, parts, flags, N, narrow_expert, n_rows, WG: gl.constexpr,
                   GATED: gl.constexpr, HAS_BIAS: gl.constexpr, LN: gl.constexpr):  # fmt: skip
    """Store or leave two [64 weight rows, 16 tokens] sums, 128 rows apart; if gated, of gate rows and of up rows."""
    n_tile, put_slot, get_first, get_last = item
    offs_w = gl.arange(0, 64, layout=gl.SliceLayout(1, LN))
    offs_t = gl.arange(0, 16, layout=gl.SliceLayout(0, LN))
    offs = offs_w[:, None] * 16 + offs_t[None, :] + WG * (2 * 64 * 16)
    if put_slot >= 0:
        gl.store(parts + put_slot * (4 * 64 * 16) + offs, n0)
        gl.store(parts + put_slot * (4 * 64 * 16) + 64 * 16 + offs, n1)
        _fence()
        gl.thread_barrier()
        gl.store(flags + put_slot * 2 + WG, 1)
    else:
        for four in range(get_first, get_last, 4):
            _await_four(flags + WG, four, get_last, -1, 2)
            for s in range(four, gl.minimum(four + 4, get_last)):
                n0 += gl.load(parts + s * (4 * 64 * 16) + offs)
                n1 += gl.load(parts + s * (4 * 64 * 16) + 64 * 16 + offs)
        n_out = N // 2 if GATED else N
        c0 = n_tile * (128 if GATED else 256) + WG * 64 + offs_w
        c1 = c0 + (N // 2 if GATED else 128)
        if HAS_BIAS:
            b = bias + narrow_expert * N
            n0 += gl.load(b + c0, mask=c0 < N, other=0.0).to(gl.float32)[:, None]
            n1 += gl.load(b + c1, mask=c1 < N, other=0.0).to(gl.float32)[:, None]
        if GATED:
            _store_narrow(_silu_mul(n0, n1), y, c0, n_out, n_rows, LN)
        else:
            _store_narrow(n0, y, c0, n_out, n_rows, LN)
            _store_narrow(n1, y, c1, n_out, n_rows, LN)


@gluon.jit
def _fetch_bias(bias, item, N, GATED: gl.constexpr, HAS_BIAS: gl.constexpr):
    """The 256 biases of an item, two a thread. Only the block that adds up the first K range adds them."""
    B: gl.constexpr = gl.BlockedLayout([2], [32], [4], [0])
    if not HAS_BIAS:
        return gl.zeros([256], gl.float32, B)
    c = gl.arange(0, 256, layout=B)
    col = item[2] * 128 + (c & 127) + gl.where(c < 128, 0, N // 2) if GATED else item[2] * 256 + c
    there = (col < N) & (item[3] == 0)
    return gl.load(bias + (item[0] & 1) * N + col, mask=there, other=0.0).to(gl.float32)


@gluon.jit
def _consume(y_text, y_image, y_narrow, a_ring, b_ring, ready, free, out, head, wide, narrow, wide_rows, narrow_rows,
             bias, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_rows, WG: gl.constexpr,
             GATED: gl.constexpr, HAS_BIAS: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """One warpgroup's half of every tile: multiply what arrives, release the slot, store what is complete."""
    L: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 256, 16])
    LN: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 16, 16])
    pid = gl.program_id(0)
    i = pid * wide_rows
    i_end = i + gl.load(head + pid * 4)
    j = pid * narrow_rows
    j_end = j + gl.load(head + pid * 4 + 1)
    every = gl.load(head + pid * 4 + 2)
    slot = 0
    phase = 0
    left = FOREVER
    if j < j_end:
        left = every
    item = _fetch(wide, i)
    k = item[3]
    b = _fetch_bias(bias, item, N, GATED, HAS_BIAS)
    ahead = _fetch(wide, i + 1)
    t = gl.load(narrow + j * 8 + 1)
    t_end = gl.load(narrow + j * 8 + 2)
    acc = gl.zeros([64, 256], gl.float32, L)
    n0 = gl.zeros([64, 16], gl.float32, LN)
    n1 = gl.zeros([64, 16], gl.float32, LN)
    while (i < i_end) | (j < j_end):
        if i < i_end:
            steps = gl.minimum(item[4] - k, left)
            for _ in range(steps):
                mbarrier.wait(ready.index(slot), phase)
                x_half = a_ring.index(slot).slice(WG * 64, 64, dim=0)
                acc = warpgroup_mma(x_half, b_ring.index(slot).permute((1, 0)), acc, is_async=True)
                acc = warpgroup_mma_wait(0, deps=(acc,))
                mbarrier.arrive(free.index(slot))
                slot += 1
                if slot == STAGES:
                    slot = 0
                    phase ^= 1
            k += steps
            left -= steps
            if k == item[4]:
                _finish_wide(acc, b, y_text, y_image, out, item, parts, flags, WG, GATED, HAS_BIAS)
                # A fresh accumulator: kept across the epilogue, the old one would be spilled.
                acc = gl.zeros([64, 256], gl.float32, L)
                i += 1
                item = ahead
                k = item[3]
                b = _fetch_bias(bias, item, N, GATED, HAS_BIAS)
                ahead = _fetch(wide, i + 1)
        if (j < j_end) & ((left == 0) | (i == i_end)):
            mbarrier.wait(ready.index(slot), phase)
            x_t = a_ring.index(slot).slice(0, 16, dim=0).permute((1, 0))
            w = b_ring.index(slot)
            n0 = warpgroup_mma(w.slice(WG * 64, 64, dim=0), x_t, n0, is_async=True)
            n1 = warpgroup_mma(w.slice(128 + WG * 64, 64, dim=0), x_t, n1, is_async=True)
            n0, n1 = warpgroup_mma_wait(0, deps=(n0, n1))
            mbarrier.arrive(free.index(slot))
            slot += 1
            if slot == STAGES:
                slot = 0
                phase ^= 1
            t += 1
            left = every
            if t == t_end:
                part = (
                    gl.load(narrow + j * 8),
                    gl.load(narrow + j * 8 + 3),
                    gl.load(narrow + j * 8 + 4),
                    gl.load(narrow + j * 8 + 5),
                )
                _finish_narrow(n0, n1, y_narrow, part, bias, narrow_parts, narrow_flags, N, narrow_expert, n_rows, WG,
                               GATED, HAS_BIAS, LN)  # fmt: skip
                n0 = gl.zeros([64, 16], gl.float32, LN)
                n1 = gl.zeros([64, 16], gl.float32, LN)
                j += 1
                t = gl.load(narrow + j * 8 + 1)
                t_end = gl.load(narrow + j * 8 + 2)
                if j == j_end:
                    left = FOREVER
    tma.store_wait(pendings=0)


@gluon.jit(do_not_specialize=["wide_rows", "narrow_rows", "N", "narrow_expert", "n_rows"])
def _hopper_kernel(x_text, x_image, x_narrow, w_desc, y_text, y_image, y_narrow, bias, head, wide, narrow, wide_rows,
                   narrow_rows, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_rows,
                   GATED: gl.constexpr, HAS_BIAS: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """x_*, w_desc, y_*: TMA descriptors of each expert's rows of x [M, K], of the weights [2N, K], of y [M, n_out]."""
    dtype: gl.constexpr = w_desc.dtype
    TILE: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    a_ring = gl.allocate_shared_memory(dtype, [STAGES, 128, 64], TILE)
    b_ring = gl.allocate_shared_memory(dtype, [STAGES, 256, 64], TILE)
    out_0 = gl.allocate_shared_memory(dtype, [2, 64, 64], TILE)
    out_1 = gl.allocate_shared_memory(dtype, [2, 64, 64], TILE)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for s in gl.static_range(STAGES):
        mbarrier.init(ready.index(s), count=1)
        mbarrier.init(free.index(s), count=2)
    fence_async_shared()
    # 232 + 232 + 40 registers, of 504 that three warpgroups have.
    gl.warp_specialize(
        [
            (_consume, (y_text, y_image, y_narrow, a_ring, b_ring, ready, free, out_0, head, wide, narrow, wide_rows,
                        narrow_rows, bias, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_rows, 0,
                        GATED, HAS_BIAS, STAGES)),
            (_consume, (y_text, y_image, y_narrow, a_ring, b_ring, ready, free, out_1, head, wide, narrow, wide_rows,
                        narrow_rows, bias, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_rows, 1,
                        GATED, HAS_BIAS, STAGES)),
            (_produce, (x_text, x_image, x_narrow, w_desc, a_ring, b_ring, ready, free, head, wide, narrow, wide_rows,
                        narrow_rows, N, narrow_expert, GATED, STAGES)),
        ],
        [4, 1],
        [232, 40],
    )  # fmt: skip


_SWIZZLED = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


@dataclass(frozen=True, eq=False)
class _Tables:
    """A schedule, and on a device the lists that the kernel reads."""

    plan: schedule.Schedule
    head: Tensor
    wide: Tensor
    narrow: Tensor


@functools.cache
def _tables(rows: tuple[int, int], n_tiles: int, k_steps: int, group: int, device: torch.device) -> _Tables:
    """Made once and kept for good: a captured graph goes on reading them. Raises ValueError in a capture, which cannot
    copy from the host."""
    require(
        not torch.cuda.is_current_stream_capturing(),
        "the first call for {} text and {} image rows came while a CUDA graph was captured; call once before",
        *rows,
    )
    blocks = torch.cuda.get_device_properties(device).multi_processor_count
    plan = schedule.make(rows, n_tiles, k_steps, blocks, group)
    return _Tables(plan, *(torch.tensor(table, dtype=torch.int32, device=device) for table in plan.tables()))


_FLAGS: dict[tuple[_Tables, int], Tensor] = {}
"""The flags by which blocks signal, lowered by those who waited. The launches of one stream share a set in turn."""


def _flags(tables: _Tables, device: torch.device) -> Tensor:
    """[4 a wide part, 2 a narrow part], all down.

    A graph captured on a stream that has called before shares that stream's, so it must not run beside it. Elsewhere a
    graph has its own, and clears them with every replay.
    """
    key = (tables, torch.cuda.current_stream(device).cuda_stream)
    flags = _FLAGS.get(key)
    if flags is None:
        n = 4 * tables.plan.wide_parts + 2 * tables.plan.narrow_parts
        flags = torch.zeros(max(n, 1), dtype=torch.int32, device=device)
        if not torch.cuda.is_current_stream_capturing():
            _FLAGS[key] = flags
    return flags


def _box(tensor: Tensor, rows: int) -> TensorDescriptor:
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [rows, 64], _SWIZZLED)


def routed(x: Tensor, experts: Experts, route: Route, tile: Tile, gated: bool) -> Tensor:
    """linear or gated_linear for rows sorted into [image | text], in one launch.

    x [M, K], experts [2, N, K] -> [M, N], or [M, N / 2] if gated; float16 or bfloat16, sums in float32, rounded once.
    Raises ValueError for rows in another order, or for memory that TMA cannot address: rows of x and of the weights
    must start at multiples of 16 bytes.
    """
    weight, bias = experts.weight, experts.bias
    (m, k), n = x.shape, weight.shape[1]
    n_out, n_image = n // 2 if gated else n, route.n_image
    require(route.image_first, "tile {} needs rows sorted as Route.image_then_text; this route's are not", tile)
    require(tile.kind == "hopper", "tile {} is of kind {!r}; this kernel takes 'hopper'", tile, tile.kind)
    require(
        weight.is_contiguous(), "weight has strides {}; the Hopper kernel needs weight.contiguous()", weight.stride()
    )
    for name, tensor, stride in (("x", x, x.stride(0)), ("weight", weight, k), ("the result", x, n_out)):
        require(
            stride % 8 == 0 and tensor.data_ptr() % 16 == 0,
            "rows of {} are {} bytes apart from address {}; the Hopper kernel needs multiples of 16, a copy or padding",
            name,
            stride * 2,
            tensor.data_ptr(),
        )
    y = torch.empty(m, n_out, dtype=x.dtype, device=x.device)
    if m == 0 or n_out == 0:
        return y
    with torch.cuda.device_of(x):
        n_tiles = -(-n_out // (128 if gated else 256))
        tables = _tables((route.n_text, n_image), n_tiles, -(-k // schedule.BLOCK_K), tile.group_m, x.device)
        plan, flags = tables.plan, _flags(tables, x.device)
        # A descriptor of no rows cannot be made; nothing reads the one that stands in for it.
        x_image, x_text = (x[:n_image] if n_image else x), (x[n_image:] if n_image < m else x)
        y_image, y_text = (y[:n_image] if n_image else y), (y[n_image:] if n_image < m else y)
        x_narrow, y_narrow = (x_image, y_image) if plan.narrow_expert == 1 else (x_text, y_text)
        parts = torch.empty(max(plan.wide_parts, 1) * 128 * 256, dtype=torch.float32, device=x.device)
        narrow_parts = torch.empty(max(plan.narrow_parts, 1) * 256 * 16, dtype=torch.float32, device=x.device)
        _hopper_kernel[(plan.blocks,)](
            _box(x_text, 128), _box(x_image, 128), _box(x_narrow, 16),
            _box(weight.view(2 * n, k), 128 if gated else 256), _box(y_text, 64), _box(y_image, 64),
            y_narrow, y if bias is None else bias.contiguous(),
            tables.head, tables.wide, tables.narrow, plan.wide_rows, plan.narrow_rows,
            parts, narrow_parts, flags, flags[4 * plan.wide_parts :], n, plan.narrow_expert, x_narrow.shape[0],
            GATED=gated, HAS_BIAS=bias is not None, STAGES=tile.stages, num_warps=4,
        )  # fmt: skip
    return y
