"""Device functions that turn a program id into an expert and its rows. Shared by every routed kernel."""

import triton
import triton.language as tl


@triton.jit
def tile_coordinates(pid, n_tiles_m, n_tiles_n, GROUP_M: tl.constexpr):
    """(row tile, column tile) of a program: GROUP_M row tiles walk the columns together and share weights in L2."""
    per_group = GROUP_M * n_tiles_n
    group = pid // per_group
    first_m = group * GROUP_M
    group_size = min(n_tiles_m - first_m, GROUP_M)
    return first_m + (pid % per_group) % group_size, (pid % per_group) // group_size


@triton.jit
def tile_rows(rows_ptr, tile_m, n_text, n_rows, BLOCK_M: tl.constexpr):
    """(rows int64 [BLOCK_M], mask, expert int64) of a row tile: the text tiles come first, no tile mixes experts.

    Masked rows are 0, a row that exists, so that loads need no mask.
    """
    text_tiles = tl.cdiv(n_text, BLOCK_M)
    is_image = tile_m >= text_tiles
    first = tl.where(is_image, n_text + (tile_m - text_tiles) * BLOCK_M, tile_m * BLOCK_M)
    end = tl.where(is_image, n_rows, n_text)
    offs = first + tl.arange(0, BLOCK_M)
    mask = offs < end
    rows = tl.load(rows_ptr + offs, mask=mask, other=0)
    return rows, mask, is_image.to(tl.int64)
