"""The Hopper kernel of int8 weights from the host: as mot_impl/hopper_launch.py, whose tables and flags it shares."""

import torch
from torch import Tensor
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from mot_impl import schedule
from mot_impl.hopper_int8 import _hopper_int8_kernel
from mot_impl.hopper_launch import _flags, _tables
from mot_impl.tiles import Tile
from reference_impl.contract import Experts, Route, require


def box(tensor: Tensor, rows: int, columns: int = 64) -> TensorDescriptor:
    """A block of `rows` rows, 32 to 128 bytes of each."""
    layout = NVMMASharedLayout(columns * tensor.itemsize, 8 * tensor.itemsize, rank=2)
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [rows, columns], layout)


def result_block(tokens: int, gated: bool) -> tuple[int, int]:
    """Rows and columns of y that a warpgroup stores at once, one part in four or eight of its own."""
    return (tokens // 4, 32) if gated else (tokens // 8, 64)


def routed(x: Tensor, experts: Experts, route: Route, tile: Tile, gated: bool) -> Tensor:
    """linear or gated_linear of int8 experts for rows sorted into [image | text], in one launch.

    x [M, K] float16 or bfloat16, experts [2, N, K] int8 -> [M, N], or [M, N / 2] if gated; sums in float32, times the
    scale of the weight row, rounded once. Raises ValueError for rows in another order, or for memory that TMA cannot
    address: rows of x, of the weights and of the result must start at multiples of 16 bytes.
    """
    weight, bias = experts.weight, experts.bias
    (m, k), n = x.shape, weight.shape[1]
    n_out, n_image = n // 2 if gated else n, route.n_image
    require(route.image_first, "tile {} needs rows sorted as Route.image_then_text; this route's are not", tile)
    require(tile.kind == "hopper", "tile {} is of kind {!r}; this kernel takes 'hopper'", tile, tile.kind)
    require(
        weight.is_contiguous(), "weight has strides {}; the Hopper kernel needs weight.contiguous()", weight.stride()
    )
    y = torch.empty(m, n_out, dtype=x.dtype, device=x.device)
    for name, tensor, stride in (("x", x, x.stride(0)), ("weight", weight, k), ("the result", y, n_out)):
        require(
            stride * tensor.itemsize % 16 == 0 and tensor.data_ptr() % 16 == 0,
            "rows of {} are {} bytes apart from address {}; the Hopper kernel needs multiples of 16, a copy or padding",
            name,
            stride * tensor.itemsize,
            tensor.data_ptr(),
        )
    if m == 0 or n_out == 0:
        return y
    with torch.cuda.device_of(x):
        n_tiles, k_steps = -(-n_out // (64 if gated else 128)), -(-k // 64)
        rows = (route.n_text, n_image)
        step = schedule.step_of(experts.kind, tile.block_m)
        tables = _tables(rows, n_tiles, k_steps, tile.group_m, tile.pieces, x.device, step)
        plan, flags = tables.plan, _flags(tables, x.device)
        # A descriptor of no rows cannot be made; nothing reads the one that stands in for it.
        x_image, x_text = (x[:n_image] if n_image else x), (x[n_image:] if n_image < m else x)
        y_image, y_text = (y[:n_image] if n_image else y), (y[n_image:] if n_image < m else y)
        x_narrow, y_narrow = (x_image, y_image) if plan.narrow_expert == 1 else (x_text, y_text)
        y_block = result_block(tile.block_m, gated)
        parts = torch.empty(max(plan.wide_parts, 1) * 128 * tile.block_m, dtype=torch.float32, device=x.device)
        narrow_parts = torch.empty(max(plan.narrow_parts, 1) * 128 * 16, dtype=torch.float32, device=x.device)
        _hopper_int8_kernel[(plan.blocks,)](
            box(x_text, tile.block_m), box(x_image, tile.block_m), box(x_narrow, 16),
            box(weight.view(2 * n, k), 64 if gated else 128), box(y_text, *y_block), box(y_image, *y_block),
            y_narrow, experts.scale.contiguous(), y if bias is None else bias.contiguous(),
            tables.head, tables.wide, tables.narrow, plan.wide_rows, plan.narrow_rows,
            parts, narrow_parts, flags, flags[4 * plan.wide_parts :], n, plan.narrow_expert, x_narrow.shape[0],
            GATED=gated, HAS_BIAS=bias is not None, TOKENS=tile.block_m, STAGES=tile.stages, num_warps=4,
        )  # fmt: skip
    return y
