"""The Hopper kernel from the host: what it needs beside its operands is made once and kept."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from mot_impl import schedule
from mot_impl.hopper import _hopper_kernel
from mot_impl.tile import HOPPER_BLOCKS, Tile
from reference_impl.contract import Experts, QuantisedRows, Route, require


@dataclass(frozen=True, eq=False)
class _Tables:
    """A schedule, and on a device the lists that the kernel reads."""

    plan: schedule.Schedule
    head: Tensor
    wide: Tensor
    narrow: Tensor


@functools.cache
def _tables(
    rows: tuple[int, int],
    n_tiles: int,
    k_steps: int,
    group: int,
    pieces: int,
    device: torch.device,
    step: schedule.Step = schedule.EQUAL_STEP,
) -> _Tables:
    """Made once and kept for good: a captured graph goes on reading them. Raises ValueError in a capture, which cannot
    copy from the host."""
    require(
        not torch.cuda.is_current_stream_capturing(),
        "the first call for {} text and {} image rows came while a CUDA graph was captured; call once before",
        *rows,
    )
    blocks = torch.cuda.get_device_properties(device).multi_processor_count
    plan = schedule.make(rows, n_tiles, k_steps, blocks, group, min(pieces, k_steps), step)
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


def box(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """A block of `rows` rows and, of each, `columns` values, 32 to 128 bytes, which is how they are swizzled."""
    layout = NVMMASharedLayout(columns * tensor.itemsize, 8 * tensor.itemsize, rank=2)
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [rows, columns], layout)


def by_expert(rows: Tensor, n_image: int) -> tuple[Tensor, Tensor]:
    """(text, image) rows of [image | text]. A descriptor of no rows cannot be made: all of them stand in for an expert
    without any, and nothing reads them."""
    return (rows[n_image:] if n_image < len(rows) else rows), (rows[:n_image] if n_image else rows)


def check_launch(x: Tensor, experts: Experts, y: Tensor, route: Route, tile: Tile) -> None:
    """The door of the Hopper kernels. Raises ValueError for rows in another order, a tile of another kernel, or memory
    that TMA cannot address: rows of x, of the weights and of the result must start at multiples of 16 bytes."""
    weight = experts.weight
    require(route.image_first, "tile {} needs rows sorted as Route.image_then_text; this route's are not", tile)
    require(
        tile.kind == "hopper" and tile.blocks in HOPPER_BLOCKS[experts.kind],
        "tile {} is of another kernel; that of {} experts takes kind 'hopper' with block_m, block_n, block_k, warps {}",
        tile,
        experts.kind,
        HOPPER_BLOCKS[experts.kind],
    )
    require(
        weight.is_contiguous(), "weight has strides {}; the Hopper kernel needs weight.contiguous()", weight.stride()
    )
    for name, tensor, stride in (
        ("x", x, x.stride(0)),
        ("weight", weight, experts.n_in),
        ("the result", y, y.shape[1]),
    ):
        require(
            stride * tensor.itemsize % 16 == 0 and tensor.data_ptr() % 16 == 0,
            "rows of {} are {} bytes apart from address {}; the Hopper kernel needs multiples of 16, a copy or padding",
            name,
            stride * tensor.itemsize,
            tensor.data_ptr(),
        )


def routed(
    x: Tensor | QuantisedRows, experts: Experts, route: Route, tile: Tile, gated: bool, exact: bool = False
) -> Tensor:
    """linear or gated_linear for rows sorted into [image | text], in one launch.

    x [M, K], experts [2, N, K], dense or fp8 -> [M, N], or [M, N / 2] if gated; float16 or bfloat16, sums in float32,
    rounded once. exact: sums over more than 128 values of K in registers, not in the tensor cores, whose sums of 8-bit
    floats have about 22 bits. Raises ValueError as check_launch does.
    """
    weight, bias = experts.weight, experts.bias
    values, x_scale = (x.values, x.scale.contiguous()) if isinstance(x, QuantisedRows) else (x, None)
    (m, k), n = x.shape, weight.shape[1]
    n_out, n_image = n // 2 if gated else n, route.n_image
    y = torch.empty(m, n_out, dtype=x.dtype, device=x.device)
    check_launch(values, experts, y, route, tile)
    if m == 0 or n_out == 0:
        return y
    with torch.cuda.device_of(values):
        n_tiles = -(-n_out // (128 if gated else 256))
        rows, k_steps = (route.n_text, n_image), -(-k // tile.block_k)
        tables = _tables(rows, n_tiles, k_steps, tile.group_m, tile.pieces, x.device)
        plan, flags = tables.plan, _flags(tables, x.device)
        (x_text, x_image), (y_text, y_image) = by_expert(values, n_image), by_expert(y, n_image)
        x_narrow, y_narrow = (x_image, y_image) if plan.narrow_expert == 1 else (x_text, y_text)
        parts = torch.empty(max(plan.wide_parts, 1) * 128 * 256, dtype=torch.float32, device=x.device)
        narrow_parts = torch.empty(max(plan.narrow_parts, 1) * 256 * 16, dtype=torch.float32, device=x.device)
        _hopper_kernel[(plan.blocks,)](
            box(x_text, 128, tile.block_k), box(x_image, 128, tile.block_k), box(x_narrow, 16, tile.block_k),
            box(weight.view(2 * n, k), 128 if gated else 256, tile.block_k), box(y_text, 64, 64), box(y_image, 64, 64),
            y_narrow, y if bias is None else bias.contiguous(),
            y if x_scale is None else x_scale, y if experts.scale is None else experts.scale.contiguous(),
            tables.head, tables.wide, tables.narrow, plan.wide_rows, plan.narrow_rows,
            parts, narrow_parts, flags, flags[4 * plan.wide_parts :], n, plan.narrow_expert,
            n_image, m, GATED=gated, HAS_BIAS=bias is not None, SCALED=x_scale is not None,
            EXACT=exact, STAGES=tile.stages, num_warps=4,
        )  # fmt: skip
    return y
