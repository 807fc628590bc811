"""Programs to tiles to rows: each exactly once. A row written twice would show on a GPU only, as a race."""

import pytest
import torch
import triton
import triton.language as tl

from mot_impl.routing import tile_coordinates, tile_rows

BLOCK = 16


@triton.jit
def _count_rows(rows_ptr, text_ptr, image_ptr, n_text, n_rows, BLOCK_M: tl.constexpr):  # noqa: N803 - a constexpr, as in the kernels
    """Count, per row, the tiles of each expert that own it."""
    rows, mask, expert = tile_rows(rows_ptr, tl.program_id(0), n_text, n_rows, BLOCK_M)
    tl.atomic_add(text_ptr + rows, (1 - expert).to(tl.int32), mask=mask)
    tl.atomic_add(image_ptr + rows, expert.to(tl.int32), mask=mask)


@triton.jit
def _count_tiles(counts_ptr, n_tiles_m, n_tiles_n, GROUP_M: tl.constexpr):  # noqa: N803 - likewise
    tile_m, tile_n = tile_coordinates(tl.program_id(0), n_tiles_m, n_tiles_n, GROUP_M)
    tl.atomic_add(counts_ptr + tile_m * n_tiles_n + tile_n, 1)


@pytest.mark.parametrize(("n_text", "n_rows"), [(0, 40), (3, 40), (16, 48), (17, 40), (40, 40), (1, 1), (0, 1)])
def test_each_row_belongs_to_one_tile_of_its_expert(n_text, n_rows, device):
    rows = torch.randperm(n_rows, generator=torch.Generator().manual_seed(0)).to(device)
    text, image = (torch.zeros(n_rows, dtype=torch.int32, device=device) for _ in range(2))
    n_tiles = triton.cdiv(n_text, BLOCK) + triton.cdiv(n_rows - n_text, BLOCK)
    _count_rows[(n_tiles,)](rows, text, image, n_text, n_rows, BLOCK_M=BLOCK)
    of_text = torch.zeros_like(text)
    of_text[rows[:n_text]] = 1
    assert (text.tolist(), image.tolist()) == (of_text.tolist(), (1 - of_text).tolist())


@pytest.mark.parametrize("group_m", [1, 2, 8])
@pytest.mark.parametrize(("tiles_m", "tiles_n"), [(1, 1), (5, 3), (8, 2), (3, 7)])
def test_each_program_has_a_tile_of_its_own(tiles_m, tiles_n, group_m, device):
    counts = torch.zeros(tiles_m * tiles_n, dtype=torch.int32, device=device)
    _count_tiles[(tiles_m * tiles_n,)](counts, tiles_m, tiles_n, GROUP_M=group_m)
    assert counts.tolist() == [1] * (tiles_m * tiles_n)
