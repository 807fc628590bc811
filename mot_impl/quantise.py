"""Rows in fp8, each with its scale, in one pass; and what the norms that quantise their result share with it."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from mot_impl.device import INTERPRETED, launch, require_fp8, require_supported, require_unit_stride
from reference_impl.checks import check_quantise
from reference_impl.contract import FP8, FP8_MAX, QuantisedRows, Route, require

WIDEST = 32_768
"""A program keeps a whole row in registers, 32 values a thread at this width with 32 warps. Twice as many spill."""

PER_WARP = 1024
"""Values that a warp keeps, 32 a thread. Measured on an H100: at a row of 3584, four warps are faster than eight."""

LARGEST, SMALLEST_SCALE = tl.constexpr(FP8_MAX), tl.constexpr(torch.finfo(torch.float32).tiny)
BY_HAND = tl.constexpr(INTERPRETED)
"""The interpreter's own cast to fp8 loses the carry of a rounding and has no NaN."""


@dataclass(frozen=True)
class CutBlock:
    """How the kernel divides its problem: `rows` a program, each in two parts of padded width, the second may be 0."""

    rows: int
    width: int
    rest: int
    warps: int

    @classmethod
    def of(cls, m: int, k: int) -> "CutBlock":
        """One row a program; two parts where one power of two would be padding by a third or more: 18944 is 16384 and
        4096, not 32768. In the interpreter, whose cost is per program, as many rows as a million values hold.

        A warp keeps twice what it keeps of a norm. Measured on an H100, 8208 rows of 18944: 162 us with 8 warps, 206
        with 16, 269 with 32; a copy of as many bytes took 196."""
        require(k <= WIDEST, "width is {} but quantise_rows takes at most {}", k, WIDEST, error=NotImplementedError)
        padded = triton.next_power_of_2(max(k, 1))
        rest = triton.next_power_of_2(k - padded // 2) if k > padded // 2 > 0 else padded
        width, rest = (padded // 2, rest) if rest <= padded // 4 else (padded, 0)
        rows = min(max(1, 2**20 // padded), triton.next_power_of_2(max(m, 1))) if INTERPRETED else 1
        return cls(rows, width, rest, min(32, max(4, width // (2 * PER_WARP))))

    def __str__(self) -> str:
        where = "interpreter" if INTERPRETED else "heuristic"
        return f"{self.rows}x{self.width}+{self.rest} w{self.warps} ({where})"


@triton.jit
def magnitude(wide):
    """The largest magnitude of each row of [rows, D] float32, NaN if there is one: as integers, NaN is the largest."""
    return tl.max(wide.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1).to(tl.float32, bitcast=True)


@triton.jit
def scale_of(largest):
    """The scale of rows of these magnitudes, with IEEE division as the reference has it; of a NaN it is NaN."""
    scale = tl.div_rn(largest, LARGEST)
    scale = tl.where(scale < SMALLEST_SCALE, SMALLEST_SCALE, scale)
    return tl.where(largest == 0.0, 1.0, scale)


@triton.jit
def fp8_bits(wide, scale, FIXED: tl.constexpr):
    """[rows, D] float32 over [rows] as the bits of float8_e4m3fn: clamped, to nearest even; not finite becomes NaN.

    A chip's own cast clamps and keeps NaN, and over a row's own scale, then infinite too, infinity is NaN already. So
    FIXED scales cost two operations a value, and the others none.
    """
    scaled = wide * tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)[:, None]
    if FIXED:
        # Zero, or NaN if not finite, which clamping would make a number; a mask of it would take a register a value.
        scaled = tl.minimum(tl.maximum(scaled, -LARGEST), LARGEST) + (wide - wide)
    return _rounded(scaled) if BY_HAND else scaled.to(tl.float8e4nv).to(tl.uint8, bitcast=True)


@triton.jit
def _rounded(x):
    """float32 as e4m3, to nearest even, if it is NaN or at most a roundoff beyond +-448: 20 bits of significand go, and
    120 of the exponent's bias."""
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - 960
    # Below 2^-6 a code is a number of 2^-9: the unit in the last place of 2^14.
    small = (tl.abs(x) + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    code = tl.where(tl.abs(x) < 0.015625, small, normal) | tl.where(x < 0, 0x80, 0)
    return tl.where(x == x, code, 0x7F).to(tl.uint8)


@triton.jit(do_not_specialize=["n_rows", "n_text"])
def _quantise_kernel(
    x_ptr, values_ptr, scale_ptr, input_scale_ptr, rows_ptr, n_rows, n_text, D, stride_x,
    FIXED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_REST: tl.constexpr,
):  # fmt: skip
    """BLOCK_R rows of values and scale. x [*, D], values [n_rows, D] as bytes, scale [n_rows], input_scale [2] if
    FIXED, rows int64 [n_rows]. Columns from BLOCK_D on are a part of their own."""
    position = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask_r = position < n_rows
    row = tl.load(rows_ptr + position, mask=mask_r, other=0)
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    mask = mask_r[:, None] & (offs_d < D)
    x = tl.load(x_ptr + (row * stride_x)[:, None] + offs_d, mask=mask, other=0.0).to(tl.float32)
    if BLOCK_REST > 0:
        offs_rest = BLOCK_D + tl.arange(0, BLOCK_REST)[None, :]
        mask_rest = mask_r[:, None] & (offs_rest < D)
        rest = tl.load(x_ptr + (row * stride_x)[:, None] + offs_rest, mask=mask_rest, other=0.0).to(tl.float32)
    if FIXED:
        scale = tl.load(input_scale_ptr + (position >= n_text).to(tl.int64))
    else:
        largest = magnitude(x)
        if BLOCK_REST > 0:
            largest = tl.maximum(largest, magnitude(rest), propagate_nan=tl.PropagateNan.ALL)
        scale = scale_of(largest)
    tl.store(scale_ptr + row, scale, mask=mask_r)
    tl.store(values_ptr + (row * D)[:, None] + offs_d, fp8_bits(x, scale, FIXED), mask=mask)
    if BLOCK_REST > 0:
        tl.store(values_ptr + (row * D)[:, None] + offs_rest, fp8_bits(rest, scale, FIXED), mask=mask_rest)


def quantise_rows(x: Tensor, route: Route, input_scale: Tensor | None = None) -> QuantisedRows:
    """Each row in fp8, in one launch: x [M, K] with any row stride -> values [M, K] and scale [M].

    input_scale [2]: each expert's fixed scale; what it does not reach is clamped to +-448. None: absmax / 448 of each
    row, 1 for a row of zeros. NaN and infinite elements become NaN. Raises ValueError or TypeError at the contract's
    door, NotImplementedError for a device, dtype or width without kernels.
    """
    check_quantise(x, route, input_scale)
    require_supported(x)
    require_fp8(x.dtype, x.device)
    require_unit_stride(x=x)
    m, k = x.shape
    found = empty_rows(x)
    block = CutBlock.of(m, k)
    launch(
        _quantise_kernel, triton.cdiv(m, block.rows), x,
        x, found.values.view(torch.uint8), found.scale,
        found.scale if input_scale is None else input_scale.contiguous(), route.rows.contiguous(),
        m, route.n_text, k, x.stride(0), FIXED=input_scale is not None,
        BLOCK_R=block.rows, BLOCK_D=block.width, BLOCK_REST=block.rest, num_warps=block.warps,
    )  # fmt: skip
    return found


def empty_rows(x: Tensor) -> QuantisedRows:
    """Memory for the rows of x [M, K], every value of which its kernel writes."""
    values = torch.empty(x.shape, dtype=FP8, device=x.device)
    return QuantisedRows(values, torch.empty(len(x), dtype=torch.float32, device=x.device), x.dtype)
