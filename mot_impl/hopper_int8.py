"""Routed linear layers with int8 weights for Hopper (sm_90) in Gluon: half the bytes of weights at the dense speed.

The plan of mot_impl/hopper.py (one warp loads, two warpgroups multiply and store, who computes what is data), with the
operands swapped: only the left operand of a Hopper product may come from registers, so the weights are the 64-row side
of every product and up to 256 tokens the other. A warpgroup loads its 64 x 64 weights of a step into registers,
converts them there (int8 is exact in bfloat16 and float16), and multiplies with the tokens' tile in shared memory. It
converts the next step's weights, wide or narrow alike, while the products of this one run.

One scale a weight row, so one a row of sums: applied at the end of a tile. Gate and up rows alternate by eight in the
64 rows, so that SiLU(gate) * up stays within a thread.
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

from mot_impl.hopper import FOREVER, _fetch, _fetch_range
from mot_impl.hopper_finish import _await_four, _fence, _halves, _silu_mul


@gluon.jit
def _load_weights(w_desc, bar, w, row, k, N, GATED: gl.constexpr):
    """128 weight rows of one step: neighbours, or 64 gate rows and the 64 up rows that belong to them."""
    if GATED:
        tma.async_copy_global_to_shared(w_desc, [row, k], bar, w.slice(0, 64, dim=0))
        tma.async_copy_global_to_shared(w_desc, [row + N // 2, k], bar, w.slice(64, 64, dim=0))
    else:
        tma.async_copy_global_to_shared(w_desc, [row, k], bar, w)


@gluon.jit
def _produce(x_text, x_image, x_narrow, w_desc, w_ring, x_ring, ready, free, head, wide, narrow, wide_rows, narrow_rows,
             N, narrow_expert, GATED: gl.constexpr, TOKENS: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """Fill the ring in exactly the order in which _consume empties it."""
    TILE_N: gl.constexpr = 64 if GATED else 128
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
                mbarrier.expect(bar, TOKENS * 64 * 2 + 128 * 64)
                if expert == 0:
                    tma.async_copy_global_to_shared(x_text, [item[1], k * 64], bar, x_ring.index(slot))
                else:
                    tma.async_copy_global_to_shared(x_image, [item[1], k * 64], bar, x_ring.index(slot))
                _load_weights(w_desc, bar, w_ring.index(slot), w_row, k * 64, N, GATED)
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
            mbarrier.expect(bar, 16 * 64 * 2 + 128 * 64)
            tma.async_copy_global_to_shared(x_narrow, [0, t * 64], bar, x_ring.index(slot).slice(0, 16, dim=0))
            _load_weights(w_desc, bar, w_ring.index(slot), narrow_expert * N + part[0] * TILE_N, t * 64, N, GATED)
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
def _converted(pair, dtype: gl.constexpr):
    """Two int8 in an int16 -> the same two in the halves of an int32, in half precision, exactly.

    A byte b goes under the exponent of 128 (bfloat16) or 1024 (float16), where its bits count ones. bfloat16 has room
    for seven of them: (128 + low seven bits) - (128, or 256 if b is negative). float16: (1024 + b + 128) - 1152.
    """
    if dtype == gl.bfloat16:
        return gl.inline_asm_elementwise(
            "{ .reg .b32 p, low, high; cvt.u32.u16 p, $1; prmt.b32 p, p, 0x43, 0x4140; and.b32 low, p, 0xff7fff7f;"
            " and.b32 high, p, 0xff80ff80; sub.rn.bf16x2 $0, low, high; }",
            "=r,h", [pair], gl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    return gl.inline_asm_elementwise(
        "{ .reg .b32 p, q; cvt.u32.u16 p, $1; prmt.b32 p, p, 0x64, 0x4140; xor.b32 p, p, 0x00800080;"
        " mov.b32 q, 0x64806480; sub.rn.f16x2 $0, p, q; }",
        "=r,h", [pair], gl.int32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def _convert(w, dtype: gl.constexpr, WG: gl.constexpr, GATED: gl.constexpr):
    """One warpgroup's 64 rows of a slot's weights [128, 64], each two values of a row in an int32 [64, 32].

    Gated: rows 16w + g and 16w + 8 + g are gate row and up row 8w + g of its 32, which lie in the same thread.
    """
    PAIRS: gl.constexpr = gl.DistributedLinearLayout(
        reg_bases=[[8, 0], [0, 4], [0, 8], [0, 16]],
        lane_bases=[[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, 32],
    )
    HALF: gl.constexpr = gl.DistributedLinearLayout(
        reg_bases=[[0, 4], [0, 8], [0, 16]],
        lane_bases=[[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[8, 0], [16, 0]],
        block_bases=[],
        shape=[32, 32],
    )
    if GATED:
        both = gl.join(w.slice(WG * 32, 32, dim=0).load(HALF), w.slice(64 + WG * 32, 32, dim=0).load(HALF))
        rows = both.reshape([4, 8, 32, 2]).permute([0, 3, 1, 2]).reshape([64, 32])
        pairs = gl.convert_layout(rows, PAIRS, assert_trivial=True)
    else:
        pairs = w.slice(WG * 64, 64, dim=0).load(PAIRS)
    return _converted(pairs, dtype)


@gluon.jit
def _operand(pairs, dtype: gl.constexpr, L: gl.constexpr):
    """The left operand [64, 64] of products in layout L, of what _convert made: no value moves."""
    first, second = gl.inline_asm_elementwise(
        "mov.b32 {$0, $1}, $2;", "=h,=h,r", [pairs], [gl.int16, gl.int16], is_pure=True, pack=1
    )
    A: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=L, k_width=2)
    return gl.convert_layout(gl.join(first, second).reshape([64, 64]), A, assert_trivial=True).to(dtype, bitcast=True)


@gluon.jit
def _rows(n_tile, N, WG: gl.constexpr, GATED: gl.constexpr, L: gl.constexpr):
    """The weight row, within its expert, of each of a warpgroup's 64 rows of sums."""
    r = gl.arange(0, 64, layout=gl.SliceLayout(1, L))
    if GATED:
        return n_tile * 64 + WG * 32 + r // 16 * 8 + r % 8 + r // 8 % 2 * (N // 2)
    return n_tile * 128 + WG * 64 + r


@gluon.jit
def _scaled(acc, scale, bias, rows, expert, N, first, HAS_BIAS: gl.constexpr):
    """sums * scale of their row + bias, which only the block that has the first range of K adds."""
    there = rows < N
    s = gl.load(scale + expert * N + rows, mask=there, other=0.0)
    acc = acc * s[:, None]
    if HAS_BIAS:
        acc += gl.load(bias + expert * N + rows, mask=there & first, other=0.0).to(gl.float32)[:, None]
    return acc


@gluon.jit
def _gate_times_up(x):
    """[64, C] rows in turns of 8 gate rows and 8 up rows -> [32, C] SiLU(gate) * up, within each thread."""
    C: gl.constexpr = x.shape[1]
    gate, up = x.reshape([4, 2, 8, C]).permute([0, 2, 3, 1]).split()
    return _silu_mul(gate, up).reshape([32, C])


@gluon.jit
def _put(chunk, desc, out, buffer: gl.constexpr, row, col):
    """Store a chunk [columns of y, rows of y] through shared memory, turned; two buffers, so that a store overlaps the
    next conversion."""
    tma.store_wait(pendings=1)
    out.index(buffer).permute((1, 0)).store(chunk.to(desc.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(desc, [row, col], out.index(buffer))


@gluon.jit
def _store_half(sums, desc, out, row, col, GATED: gl.constexpr):
    """[64 weight rows, tokens] as they are, or SiLU(gate) * up. Buffers alternate: an even number of chunks."""
    CHUNK: gl.constexpr = desc.block_shape[0]
    if GATED:
        first, second = _halves(_gate_times_up(sums))
        _put(first, desc, out, 0, row, col)
        _put(second, desc, out, 1, row + CHUNK, col)
    else:
        lo, hi = _halves(sums)
        first, second = _halves(lo)
        third, fourth = _halves(hi)
        _put(first, desc, out, 0, row, col)
        _put(second, desc, out, 1, row + CHUNK, col)
        _put(third, desc, out, 0, row + 2 * CHUNK, col)
        _put(fourth, desc, out, 1, row + 3 * CHUNK, col)


@gluon.jit
def _part_offsets(sums):
    C: gl.constexpr = sums.shape[1]
    r = gl.arange(0, 64, layout=gl.SliceLayout(1, sums.type.layout)).to(gl.int64)
    c = gl.arange(0, C, layout=gl.SliceLayout(0, sums.type.layout)).to(gl.int64)
    return r[:, None] * C + c[None, :]


@gluon.jit
def _leave_half(sums, half: gl.constexpr, item, parts, WG: gl.constexpr):
    """Unless this block owns these sums: leave them for the block that does."""
    UNIT: gl.constexpr = WG * 2 + half
    if (item[0] >> (8 + UNIT)) & 1 == 0:
        gl.store(parts + (item[5].to(gl.int64) * 4 + UNIT) * (64 * sums.shape[1]) + _part_offsets(sums), sums)


@gluon.jit
def _finish_half(sums, half: gl.constexpr, y_text, y_image, out, item, parts, flags, WG: gl.constexpr,
                 GATED: gl.constexpr):  # fmt: skip
    """If this block owns these sums: add the parts of the others, always in the order of their slots, and store."""
    expert_own, row, n_tile, _, _, slot, get_first, get_last = item
    UNIT: gl.constexpr = WG * 2 + half
    if (expert_own >> (8 + UNIT)) & 1:
        if get_first < get_last:
            _await_four(flags + UNIT, get_first, get_last, slot, 4)
            for s in range(get_first, get_last):
                if s != slot:
                    sums += gl.load(parts + (s.to(gl.int64) * 4 + UNIT) * (64 * sums.shape[1]) + _part_offsets(sums))
        col = (n_tile * 2 + WG) * (32 if GATED else 64)
        if expert_own & 1 == 0:
            _store_half(sums, y_text, out, row + half * sums.shape[1], col, GATED)
        else:
            _store_half(sums, y_image, out, row + half * sums.shape[1], col, GATED)


@gluon.jit
def _finish_wide(acc, scale, bias, y_text, y_image, out, item, parts, flags, N, WG: gl.constexpr, GATED: gl.constexpr,
                 HAS_BIAS: gl.constexpr, L: gl.constexpr):  # fmt: skip
    """Store 64 x TOKENS sums. Of a tile that several blocks share, each owns some halves and leaves the rest."""
    expert_own, _, n_tile, k_start, _, slot, _, _ = item
    acc = _scaled(acc, scale, bias, _rows(n_tile, N, WG, GATED, L), expert_own & 1, N, k_start == 0, HAS_BIAS)
    lo, hi = _halves(acc)
    if slot >= 0:
        _leave_half(lo, 0, item, parts, WG)
        _leave_half(hi, 1, item, parts, WG)
        _fence()
        gl.thread_barrier()
        for half in gl.static_range(2):
            if (expert_own >> (8 + WG * 2 + half)) & 1 == 0:
                gl.store(flags + slot * 4 + WG * 2 + half, 1)
    _finish_half(lo, 0, y_text, y_image, out, item, parts, flags, WG, GATED)
    _finish_half(hi, 1, y_text, y_image, out, item, parts, flags, WG, GATED)


@gluon.jit
def _finish_narrow(acc, scale, bias, y, part, parts, flags, N, expert, n_rows, WG: gl.constexpr, GATED: gl.constexpr,
                   HAS_BIAS: gl.constexpr, LN: gl.constexpr):  # fmt: skip
    """Store or leave [64 weight rows, 16 tokens] sums."""
    n_tile, _, _, put_slot, get_first, get_last, _, _ = part
    offs_w = gl.arange(0, 64, layout=gl.SliceLayout(1, LN))
    offs_t = gl.arange(0, 16, layout=gl.SliceLayout(0, LN))
    offs = offs_w[:, None] * 16 + offs_t[None, :] + WG * (64 * 16)
    if put_slot >= 0:
        gl.store(parts + put_slot * (2 * 64 * 16) + offs, acc)
        _fence()
        gl.thread_barrier()
        gl.store(flags + put_slot * 2 + WG, 1)
    else:
        for four in range(get_first, get_last, 4):
            _await_four(flags + WG, four, get_last, -1, 2)
            for s in range(four, gl.minimum(four + 4, get_last)):
                acc += gl.load(parts + s * (2 * 64 * 16) + offs)
        acc = _scaled(acc, scale, bias, _rows(n_tile, N, WG, GATED, LN), expert, N, True, HAS_BIAS)
        if GATED:
            result = _gate_times_up(acc)
            _store_narrow(result, y, (n_tile * 2 + WG) * 32, N // 2, n_rows)
        else:
            _store_narrow(acc, y, (n_tile * 2 + WG) * 64, N, n_rows)


@gluon.jit
def _store_narrow(sums, y, first, n_out, n_rows):
    col = first + gl.arange(0, sums.shape[0], layout=gl.SliceLayout(1, sums.type.layout))[:, None]
    token = gl.arange(0, 16, layout=gl.SliceLayout(0, sums.type.layout))[None, :]
    mask = (col < n_out) & (token < n_rows)
    gl.store(y + token.to(gl.int64) * n_out + col, sums.to(y.dtype.element_ty), mask=mask)


@gluon.jit
def _consume(y_text, y_image, y_narrow, w_ring, x_ring, ready, free, out, head, wide, narrow, wide_rows, narrow_rows,
             scale, bias, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_rows, WG: gl.constexpr,
             GATED: gl.constexpr, HAS_BIAS: gl.constexpr, TOKENS: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """One warpgroup's half of every tile: multiply what arrives, release the slot, store what is complete."""
    L: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, TOKENS, 16])
    LN: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 16, 16])
    dtype: gl.constexpr = x_ring.dtype
    pid = gl.program_id(0)
    i = pid * wide_rows
    i_end = i + gl.load(head + pid * 4)
    j = pid * narrow_rows
    j_end = j + gl.load(head + pid * 4 + 1)
    every = gl.load(head + pid * 4 + 2)
    to_come = gl.load(head + pid * 4 + 3)
    slot = 0
    phase = 0
    left = FOREVER
    if j < j_end:
        left = every
    item = _fetch(wide, i)
    k = item[3]
    ahead = _fetch(wide, i + 1)
    t = gl.load(narrow + j * 8 + 1)
    t_end = gl.load(narrow + j * 8 + 2)
    acc = gl.zeros([64, TOKENS], gl.float32, L)
    acc_narrow = gl.zeros([64, 16], gl.float32, LN)
    mbarrier.wait(ready.index(0), 0, pred=to_come > 0)
    w = _convert(w_ring.index(0), dtype, WG, GATED)
    while (i < i_end) | (j < j_end):
        if i < i_end:
            steps = gl.minimum(item[4] - k, left)
            for _ in range(steps):
                acc = warpgroup_mma(_operand(w, dtype, L), x_ring.index(slot).permute((1, 0)), acc, is_async=True)
                used = free.index(slot)
                to_come -= 1
                slot += 1
                if slot == STAGES:
                    slot = 0
                    phase ^= 1
                mbarrier.wait(ready.index(slot), phase, pred=to_come > 0)
                w_next = _convert(w_ring.index(slot), dtype, WG, GATED)
                # Nothing to wait for any more, but the assembler moves no conversion across it: all of them run while
                # the products do. Without it half of them came after.
                mbarrier.wait(ready.index(slot), phase, pred=to_come > 0)
                acc, w, w_next = warpgroup_mma_wait(0, deps=(acc, w, w_next))
                mbarrier.arrive(used)
                w = w_next
            k += steps
            left -= steps
            if k == item[4]:
                _finish_wide(acc, scale, bias, y_text, y_image, out, item, parts, flags, N, WG, GATED, HAS_BIAS, L)
                # A fresh accumulator: kept across the epilogue, the old one would be spilled.
                acc = gl.zeros([64, TOKENS], gl.float32, L)
                i += 1
                item = ahead
                k = item[3]
                ahead = _fetch(wide, i + 1)
        if (j < j_end) & ((left == 0) | (i == i_end)):
            x_t = x_ring.index(slot).slice(0, 16, dim=0).permute((1, 0))
            acc_narrow = warpgroup_mma(_operand(w, dtype, LN), x_t, acc_narrow, is_async=True)
            used = free.index(slot)
            to_come -= 1
            slot += 1
            if slot == STAGES:
                slot = 0
                phase ^= 1
            mbarrier.wait(ready.index(slot), phase, pred=to_come > 0)
            w_next = _convert(w_ring.index(slot), dtype, WG, GATED)
            acc_narrow, w, w_next = warpgroup_mma_wait(0, deps=(acc_narrow, w, w_next))
            mbarrier.arrive(used)
            w = w_next
            t += 1
            left = every
            if t == t_end:
                part = _fetch(narrow, j)
                _finish_narrow(acc_narrow, scale, bias, y_narrow, part, narrow_parts, narrow_flags, N, narrow_expert,
                               n_rows, WG, GATED, HAS_BIAS, LN)  # fmt: skip
                acc_narrow = gl.zeros([64, 16], gl.float32, LN)
                j += 1
                t = gl.load(narrow + j * 8 + 1)
                t_end = gl.load(narrow + j * 8 + 2)
                if j == j_end:
                    left = FOREVER
    tma.store_wait(pendings=0)


@gluon.jit(do_not_specialize=["wide_rows", "narrow_rows", "N", "narrow_expert", "n_rows"])
def _hopper_int8_kernel(x_text, x_image, x_narrow, w_desc, y_text, y_image, y_narrow, scale, bias, head, wide, narrow,
                        wide_rows, narrow_rows, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_rows,
                        GATED: gl.constexpr, HAS_BIAS: gl.constexpr, TOKENS: gl.constexpr,
                        STAGES: gl.constexpr):  # fmt: skip
    """x_*, w_desc, y_*: TMA descriptors of each expert's rows of x [M, K], of the weights int8 [2N, K], of
    y [M, n_out]. scale float32 [2, N]."""
    dtype: gl.constexpr = x_text.dtype
    WEIGHTS: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=64, element_bitwidth=8, rank=2)
    PAIRS: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=64, element_bitwidth=16, rank=2)
    ROWS: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    w_ring = gl.allocate_shared_memory(gl.int8, [STAGES, 128, 64], WEIGHTS)
    w_pairs = w_ring._reinterpret(gl.int16, [STAGES, 128, 32], PAIRS)
    x_ring = gl.allocate_shared_memory(dtype, [STAGES, TOKENS, 64], ROWS)
    out_0 = gl.allocate_shared_memory(dtype, [2, y_text.block_shape[0], y_text.block_shape[1]], y_text.layout)
    out_1 = gl.allocate_shared_memory(dtype, [2, y_text.block_shape[0], y_text.block_shape[1]], y_text.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for s in gl.static_range(STAGES):
        mbarrier.init(ready.index(s), count=1)
        mbarrier.init(free.index(s), count=2)
    fence_async_shared()
    # 232 + 232 + 40 registers, of 504 that three warpgroups have.
    gl.warp_specialize(
        [
            (_consume, (y_text, y_image, y_narrow, w_pairs, x_ring, ready, free, out_0, head, wide, narrow, wide_rows,
                        narrow_rows, scale, bias, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_rows, 0,
                        GATED, HAS_BIAS, TOKENS, STAGES)),
            (_consume, (y_text, y_image, y_narrow, w_pairs, x_ring, ready, free, out_1, head, wide, narrow, wide_rows,
                        narrow_rows, scale, bias, parts, narrow_parts, flags, narrow_flags, N, narrow_expert, n_rows, 1,
                        GATED, HAS_BIAS, TOKENS, STAGES)),
            (_produce, (x_text, x_image, x_narrow, w_desc, w_ring, x_ring, ready, free, head, wide, narrow, wide_rows,
                        narrow_rows, N, narrow_expert, GATED, TOKENS, STAGES)),
        ],
        [4, 1],
        [232, 40],
    )  # fmt: skip
