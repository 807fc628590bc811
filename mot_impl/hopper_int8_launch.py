"""The Hopper kernel of int8 weights from the host: as mot_impl/hopper_launch.py, whose tables and flags it shares."""

import torch
from torch import Tensor

from mot_impl import schedule
from mot_impl.hopper_int8 import _hopper_int8_kernel
from mot_impl.hopper_launch import _flags, _tables, box, by_expert, check_launch
from mot_impl.tiles import Tile
from reference_impl.contract import Experts, Route


def result_block(tokens: int, gated: bool) -> tuple[int, int]:
    """Rows and columns of y that a warpgroup stores at once, one part in four or eight of its own."""
    return (tokens // 4, 32) if gated else (tokens // 8, 64)


def routed(x: Tensor, experts: Experts, route: Route, tile: Tile, gated: bool) -> Tensor:
    """linear or gated_linear of int8 experts for rows sorted into [image | text], in one launch.

    x [M, K] float16 or bfloat16, experts [2, N, K] int8 -> [M, N], or [M, N / 2] if gated; sums in float32, times the
    scale of the weight row, rounded once. Raises ValueError as check_launch does.
    """
    weight, bias = experts.weight, experts.bias
    (m, k), n = x.shape, weight.shape[1]
    n_out, n_image = n // 2 if gated else n, route.n_image
    y = torch.empty(m, n_out, dtype=x.dtype, device=x.device)
    check_launch(x, experts, y, route, tile)
    if m == 0 or n_out == 0:
        return y
    with torch.cuda.device_of(x):
        n_tiles, k_steps = -(-n_out // (64 if gated else 128)), -(-k // 64)
        rows = (route.n_text, n_image)
        step = schedule.step_of(experts.kind, tile.block_m)
        tables = _tables(rows, n_tiles, k_steps, tile.group_m, tile.pieces, x.device, step)
        plan, flags = tables.plan, _flags(tables, x.device)
        (x_text, x_image), (y_text, y_image) = by_expert(x, n_image), by_expert(y, n_image)
        x_narrow, y_narrow = (x_image, y_image) if plan.narrow_expert == 1 else (x_text, y_text)
        y_block = result_block(tile.block_m, gated)
        parts = torch.empty(max(plan.wide_parts, 1) * 128 * tile.block_m, dtype=torch.float32, device=x.device)
        narrow_parts = torch.empty(max(plan.narrow_parts, 1) * 128 * 16, dtype=torch.float32, device=x.device)
        _hopper_int8_kernel[(plan.blocks,)](
            box(x_text, tile.block_m, 64), box(x_image, tile.block_m, 64), box(x_narrow, 16, 64),
            box(weight.view(2 * n, k), 64 if gated else 128, 64), box(y_text, *y_block), box(y_image, *y_block),
            y_narrow, experts.scale.contiguous(), y if bias is None else bias.contiguous(),
            tables.head, tables.wide, tables.narrow, plan.wide_rows, plan.narrow_rows,
            parts, narrow_parts, flags, flags[4 * plan.wide_parts :], n, plan.narrow_expert, x_narrow.shape[0],
            GATED=gated, HAS_BIAS=bias is not None, TOKENS=tile.block_m, STAGES=tile.stages, num_warps=4,
        )  # fmt: skip
    return y
