"""The end of a tile in the Hopper kernel: adding up what blocks share, bias, SiLU * up, and the way to memory."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma


@gluon.jit
def _halves(x):
    """[R, C] -> [R, C/2] twice, without moving a value between threads."""
    R: gl.constexpr = x.shape[0]
    C: gl.constexpr = x.shape[1]
    return x.reshape([R, 2, C // 2]).permute([0, 2, 1]).split()


@gluon.jit
def _quarters(acc):
    """[64, 256], or its two halves -> four times [64, 64]."""
    if len(acc) == 1:
        lo, hi = _halves(acc[0])
    else:
        lo, hi = acc
    c0, c1 = _halves(lo)
    c2, c3 = _halves(hi)
    return c0, c1, c2, c3


@gluon.jit
def _scaled(chunk, quarter: gl.constexpr, of_rows, columns, HAS_BIAS: gl.constexpr, SCALED: gl.constexpr):
    """A [64, 64] chunk times its rows' and its columns' scales, plus its columns' biases."""
    COLUMN: gl.constexpr = gl.SliceLayout(0, chunk.type.layout)
    if SCALED:
        chunk *= gl.convert_layout(of_rows, gl.SliceLayout(1, chunk.type.layout))[:, None]
        chunk *= columns.slice(quarter * 64, 64).load(COLUMN)[None, :]
    if HAS_BIAS:
        chunk += columns.slice(256 + quarter * 64, 64).load(COLUMN)[None, :]
    return chunk


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
    r = gl.arange(0, 64, layout=gl.SliceLayout(1, chunk.type.layout))
    c = gl.arange(0, 64, layout=gl.SliceLayout(0, chunk.type.layout))
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
def finish_wide(acc, b, scales, y_text, y_image, out, item, parts, flags, WG: gl.constexpr, GATED: gl.constexpr,
                 HAS_BIAS: gl.constexpr, SCALED: gl.constexpr):  # fmt: skip
    """Store 64 x 256 sums. Of a tile that several blocks share, each owns some pairs of chunks and leaves the rest."""
    expert_own, _, _, _, _, slot, _, _ = item
    c0, c1, c2, c3 = _quarters(acc)
    if HAS_BIAS or SCALED:
        # Through the buffers of stores that ended long ago, and chunk by chunk: registers hold no more at once.
        tma.store_wait(pendings=0)
        of_rows, of_columns = scales
        FLAT: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
        columns = out._reinterpret(gl.float32, [512], FLAT)
        if SCALED:
            columns.slice(0, 256).store(of_columns)
        if HAS_BIAS:
            columns.slice(256, 256).store(b)
        c0 = _scaled(c0, 0, of_rows, columns, HAS_BIAS, SCALED)
        c1 = _scaled(c1, 1, of_rows, columns, HAS_BIAS, SCALED)
        c2 = _scaled(c2, 2, of_rows, columns, HAS_BIAS, SCALED)
        c3 = _scaled(c3, 3, of_rows, columns, HAS_BIAS, SCALED)
        gl.thread_barrier()
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
def finish_narrow(n0, n1, y, item, bias, x_scale, w_scale, parts, flags, N, narrow_expert, n_image, n_all,
                   WG: gl.constexpr, GATED: gl.constexpr, HAS_BIAS: gl.constexpr, SCALED: gl.constexpr,
                   LN: gl.constexpr):  # fmt: skip
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
        n_rows = gl.where(narrow_expert == 0, n_all - n_image, n_image)
        c0 = n_tile * (128 if GATED else 256) + WG * 64 + offs_w
        c1 = c0 + (N // 2 if GATED else 128)
        if SCALED:
            of_tokens = x_scale + gl.where(narrow_expert == 0, n_image, 0) + offs_t
            s_t = gl.load(of_tokens, mask=offs_t < n_rows, other=0.0)[None, :]
            w = w_scale + narrow_expert * N
            n0 *= gl.load(w + c0, mask=c0 < N, other=0.0)[:, None] * s_t
            n1 *= gl.load(w + c1, mask=c1 < N, other=0.0)[:, None] * s_t
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
def _columns(item, N, GATED: gl.constexpr):
    """The 256 weight rows of an item, two a thread."""
    c = gl.arange(0, 256, layout=gl.BlockedLayout([2], [32], [4], [0]))
    return item[2] * 128 + (c & 127) + gl.where(c < 128, 0, N // 2) if GATED else item[2] * 256 + c


@gluon.jit
def fetch_bias(bias, item, N, GATED: gl.constexpr, HAS_BIAS: gl.constexpr):
    """The 256 biases of an item. Only the block that adds up the first K range adds them."""
    col = _columns(item, N, GATED)
    if not HAS_BIAS:
        return gl.zeros_like(col).to(gl.float32)
    there = (col < N) & (item[3] == 0)
    return gl.load(bias + (item[0] & 1) * N + col, mask=there, other=0.0).to(gl.float32)


@gluon.jit
def fetch_scales(x_scale, w_scale, item, N, n_image, n_all, WG: gl.constexpr, GATED: gl.constexpr,
                 SCALED: gl.constexpr):  # fmt: skip
    """(one scale for each of 64 rows, one for each of 256 columns) of an item. Rows past an expert's are not stored."""
    ROW: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], instr_shape=[16, 256, 32]))
    c = _columns(item, N, GATED)
    r = item[1] + WG * 64 + gl.arange(0, 64, layout=ROW)
    if SCALED:
        expert = item[0] & 1
        r += gl.where(expert == 0, n_image, 0)
        of_rows = gl.load(x_scale + r, mask=r < n_all, other=0.0)
        of_columns = gl.load(w_scale + expert * N + c, mask=c < N, other=0.0)
    else:
        of_rows, of_columns = gl.zeros_like(r).to(gl.float32), gl.zeros_like(c).to(gl.float32)
    return of_rows, of_columns
