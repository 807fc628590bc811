"""Cutting pictures into tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bagel.latents import Grid


@given(h=st.integers(1, 5), w=st.integers(1, 5), patch=st.integers(1, 3), c=st.integers(1, 4))
def test_unpack_is_the_inverse_of_pack(h: int, w: int, patch: int, c: int) -> None:
    latent = torch.arange(c * h * patch * w * patch).reshape(c, h * patch, w * patch)
    grid = Grid(h, w)
    assert torch.equal(grid.unpack(grid.pack(latent, patch), patch), latent)


def test_a_token_runs_over_rows_then_columns_then_channels() -> None:
    latent = torch.arange(2 * 2 * 4).reshape(2, 2, 4)  # value = 8 c + 4 y + x
    assert Grid(1, 2).pack(latent, 2).tolist() == [[0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]]


def test_positions_step_by_the_side_of_the_table() -> None:
    assert Grid(2, 3).positions(64).tolist() == [0, 1, 2, 64, 65, 66]


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (60, 64, "height 60 is not a multiple of 16; use 64"),
        (64, 0, "width 0 is not a multiple of 16; use 16"),
        (64, -16, "width -16 is not a multiple of 16"),
        (64, 528, "width 528 needs 33 tokens along one side but the checkpoint has positions for 32; use at most 512"),
    ],
)
def test_size_that_does_not_fit_is_refused_with_the_cure(height: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid.of(height, width, 16, 32)
