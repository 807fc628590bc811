"""Routed linear layers for Hopper (sm_90) in Gluon. Only hopper*.py know Gluon, whose names change with each Triton.

One thread block per multiprocessor. One warp streams tiles with TMA into a ring of shared-memory slots; two warpgroups
multiply, 64 x 256 of a 128 x 256 output tile each, independently of each other, so that one computes while the other
stores. An expert with at most 16 rows is *narrow*: its weights are the 256-row side of the product and its tokens the
16-column side, and one narrow step follows every few steps of the other expert. Who computes what in which order is
data (mot_impl/schedule.py), not program logic.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from mot_impl.hopper_finish import fetch_bias, fetch_scales, finish_narrow, finish_wide

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
    STEP: gl.constexpr = a_ring.shape[2]
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
                mbarrier.expect(bar, (128 + 256) * 128)
                if expert == 0:
                    tma.async_copy_global_to_shared(x_text, [item[1], k * STEP], bar, a_ring.index(slot))
                else:
                    tma.async_copy_global_to_shared(x_image, [item[1], k * STEP], bar, a_ring.index(slot))
                _load_weights(w_desc, bar, b_ring.index(slot), w_row, k * STEP, N, GATED)
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
            mbarrier.expect(bar, (16 + 256) * 128)
            tma.async_copy_global_to_shared(x_narrow, [0, t * STEP], bar, a_ring.index(slot).slice(0, 16, dim=0))
            _load_weights(w_desc, bar, b_ring.index(slot), narrow_expert * N + part[0] * TILE_N, t * STEP, N, GATED)
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
def _nothing(EXACT: gl.constexpr, STEP_K: gl.constexpr):
    """A sum [64, 256] of nothing: one tensor, or two halves where each step is summed apart."""
    WHOLE: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], instr_shape=[16, 256, STEP_K])
    HALF: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], instr_shape=[16, 128, STEP_K])
    if EXACT:
        acc = (gl.zeros([64, 128], gl.float32, HALF), gl.zeros([64, 128], gl.float32, HALF))
    else:
        acc = (gl.zeros([64, 256], gl.float32, WHOLE),)
    return acc


@gluon.jit
def _add_product(acc, x, w, EXACT: gl.constexpr):
    """acc + x @ w.T over one step. Exact: the tensor cores add up this step only, registers the steps; half of the
    columns at a time, because there are no registers for two sums of all of them."""
    if EXACT:
        lo, hi = acc
        part = warpgroup_mma(x, w.slice(0, 128, dim=0).permute((1, 0)), gl.zeros_like(lo), use_acc=False, is_async=True)
        lo += warpgroup_mma_wait(0, deps=(part,))
        part = warpgroup_mma(
            x, w.slice(128, 128, dim=0).permute((1, 0)), gl.zeros_like(hi), use_acc=False, is_async=True
        )
        hi += warpgroup_mma_wait(0, deps=(part,))
        acc = (lo, hi)
    else:
        whole = warpgroup_mma(x, w.permute((1, 0)), acc[0], is_async=True)
        acc = (warpgroup_mma_wait(0, deps=(whole,)),)
    return acc


@gluon.jit
def _add_narrow_product(n0, n1, w0, w1, x_t, EXACT: gl.constexpr):
    """n0 + w0 @ x_t and n1 + w1 @ x_t over one step."""
    if EXACT:
        p0 = warpgroup_mma(w0, x_t, gl.zeros_like(n0), use_acc=False, is_async=True)
        p1 = warpgroup_mma(w1, x_t, gl.zeros_like(n1), use_acc=False, is_async=True)
        p0, p1 = warpgroup_mma_wait(0, deps=(p0, p1))
        n0 += p0
        n1 += p1
    else:
        n0 = warpgroup_mma(w0, x_t, n0, is_async=True)
        n1 = warpgroup_mma(w1, x_t, n1, is_async=True)
        n0, n1 = warpgroup_mma_wait(0, deps=(n0, n1))
    return n0, n1


@gluon.jit
def _consume(y_text, y_image, y_narrow, a_ring, b_ring, ready, free, out, head, wide, narrow, wide_rows, narrow_rows,
             bias, x_scale, w_scale, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_image, n_all,
             WG: gl.constexpr, GATED: gl.constexpr, HAS_BIAS: gl.constexpr, SCALED: gl.constexpr,
             EXACT: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """One warpgroup's half of every tile: multiply what arrives, release the slot, store what is complete."""
    STEP_K: gl.constexpr = a_ring.shape[2] // 4
    LN: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 16, STEP_K])
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
    b = fetch_bias(bias, item, N, GATED, HAS_BIAS)
    s = fetch_scales(x_scale, w_scale, item, N, n_image, n_all, WG, GATED, SCALED)
    ahead = gl.load(wide + i * 8 + 11)
    t = gl.load(narrow + j * 8 + 1)
    t_end = gl.load(narrow + j * 8 + 2)
    acc = _nothing(EXACT, STEP_K)
    n0 = gl.zeros([64, 16], gl.float32, LN)
    n1 = gl.zeros([64, 16], gl.float32, LN)
    while (i < i_end) | (j < j_end):
        if i < i_end:
            steps = gl.minimum(item[4] - k, left)
            for _ in range(steps):
                mbarrier.wait(ready.index(slot), phase)
                x_half = a_ring.index(slot).slice(WG * 64, 64, dim=0)
                acc = _add_product(acc, x_half, b_ring.index(slot), EXACT)
                mbarrier.arrive(free.index(slot))
                slot += 1
                if slot == STAGES:
                    slot = 0
                    phase ^= 1
            k += steps
            left -= steps
            if k == item[4]:
                finish_wide(acc, b, s, y_text, y_image, out, item, parts, flags, WG, GATED, HAS_BIAS, SCALED)
                # A fresh accumulator: kept across the epilogue, the old one would be spilled.
                acc = _nothing(EXACT, STEP_K)
                i += 1
                k = ahead
                item = _fetch(wide, i)
                b = fetch_bias(bias, item, N, GATED, HAS_BIAS)
                s = fetch_scales(x_scale, w_scale, item, N, n_image, n_all, WG, GATED, SCALED)
                # The next item's first step, and with it all of that item into L1: registers hold no more ahead.
                ahead = gl.load(wide + i * 8 + 11)
        if (j < j_end) & ((left == 0) | (i == i_end)):
            mbarrier.wait(ready.index(slot), phase)
            x_t = a_ring.index(slot).slice(0, 16, dim=0).permute((1, 0))
            w = b_ring.index(slot)
            n0, n1 = _add_narrow_product(n0, n1, w.slice(WG * 64, 64, dim=0), w.slice(128 + WG * 64, 64, dim=0), x_t,
                                         EXACT)  # fmt: skip
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
                finish_narrow(n0, n1, y_narrow, part, bias, x_scale, w_scale, narrow_parts, narrow_flags, N,
                               narrow_expert, n_image, n_all, WG, GATED, HAS_BIAS, SCALED, LN)  # fmt: skip
                n0 = gl.zeros([64, 16], gl.float32, LN)
                n1 = gl.zeros([64, 16], gl.float32, LN)
                j += 1
                t = gl.load(narrow + j * 8 + 1)
                t_end = gl.load(narrow + j * 8 + 2)
                if j == j_end:
                    left = FOREVER
    tma.store_wait(pendings=0)


@gluon.jit(do_not_specialize=["wide_rows", "narrow_rows", "N", "narrow_expert", "n_image", "n_all"])
def _hopper_kernel(x_text, x_image, x_narrow, w_desc, y_text, y_image, y_narrow, bias, x_scale, w_scale, head, wide,
                   narrow, wide_rows, narrow_rows, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_image,
                   n_all, GATED: gl.constexpr, HAS_BIAS: gl.constexpr, SCALED: gl.constexpr,
                   EXACT: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """x_*, w_desc, y_*: TMA descriptors of each expert's rows of x [M, K], of the weights [2N, K], of y [M, n_out].

    SCALED: x and the weights are 8-bit floats; row m of x times x_scale [M], weight row times w_scale [2N]. A step is
    128 bytes of each row, whatever the dtype: 64 halves or 128 8-bit floats. EXACT: steps are added up in registers.
    """
    dtype: gl.constexpr = w_desc.dtype
    BITS: gl.constexpr = dtype.primitive_bitwidth
    STEP: gl.constexpr = 1024 // BITS
    TILE: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=BITS, rank=2)
    OUT: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    a_ring = gl.allocate_shared_memory(dtype, [STAGES, 128, STEP], TILE)
    b_ring = gl.allocate_shared_memory(dtype, [STAGES, 256, STEP], TILE)
    out_0 = gl.allocate_shared_memory(y_text.dtype, [2, 64, 64], OUT)
    out_1 = gl.allocate_shared_memory(y_text.dtype, [2, 64, 64], OUT)
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
                        narrow_rows, bias, x_scale, w_scale, parts, narrow_parts, flags, narrow_flags, N,
                        narrow_expert, n_image, n_all, 0, GATED, HAS_BIAS, SCALED, EXACT, STAGES)),
            (_consume, (y_text, y_image, y_narrow, a_ring, b_ring, ready, free, out_1, head, wide, narrow, wide_rows,
                        narrow_rows, bias, x_scale, w_scale, parts, narrow_parts, flags, narrow_flags, N,
                        narrow_expert, n_image, n_all, 1, GATED, HAS_BIAS, SCALED, EXACT, STAGES)),
            (_produce, (x_text, x_image, x_narrow, w_desc, a_ring, b_ring, ready, free, head, wide, narrow, wide_rows,
                        narrow_rows, N, narrow_expert, GATED, STAGES)),
        ],
        [4, 1],
        [232, 40],
    )  # fmt: skip
