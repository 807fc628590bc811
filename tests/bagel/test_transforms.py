"""Sizes, colours and pixel values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bagel.transforms import VAE_RESIZE, VIT_RESIZE, Resize, to_image, to_pixels, to_rgb

sides = st.integers(1, 5000)


@pytest.mark.parametrize("resize", [VAE_RESIZE, VIT_RESIZE], ids=["vae", "vit"])
@given(width=sides, height=sides)
def test_sides_are_multiples_of_the_stride_and_within_the_maximum(resize: Resize, width: int, height: int) -> None:
    for side in resize.size(width, height):
        assert side % resize.stride == 0
        assert resize.stride <= side <= resize.max_size


@given(width=sides, height=sides)
def test_turning_the_picture_turns_the_size(width: int, height: int) -> None:
    assert VAE_RESIZE.size(height, width) == VAE_RESIZE.size(width, height)[::-1]


def test_area_is_reduced_by_the_ratio_itself() -> None:
    resize = Resize(max_size=4096, min_size=16, stride=16, max_pixels=1024 * 512)
    assert resize.size(1024, 1024) == (512, 512)  # a square root would give 720 x 720


def test_half_a_stride_is_rounded_to_even() -> None:
    assert Resize(1024, 16, 16).size(24, 40) == (32, 32)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA", "PA", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (10, 20, 30, 0)), ("LA", (0, 0)), ("PA", (0, 0))])
def test_what_is_transparent_is_put_on_white(mode: str, colour: tuple[int, ...]) -> None:
    assert to_rgb(Image.new(mode, (1, 1), colour)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_more_than_eight_bits_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode} has more than 8 bits a value; scale it to 0..255"):
        to_rgb(Image.new(mode, (3, 2)))


def test_transparent_palette_entry_is_put_on_white() -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    image.info["transparency"] = 0
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_pixels_run_from_minus_one_to_one() -> None:
    image = Image.fromarray(np.array([[[0, 255, 51]]], dtype=np.uint8))
    assert torch.allclose(to_pixels(image).flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_bytes_are_truncated_and_clamped() -> None:
    raw = torch.tensor([-5.0, 0.9999, 5.0]).reshape(3, 1, 1)
    assert to_image(raw).getpixel((0, 0)) == (0, 254, 255)


def test_nan_never_becomes_a_picture() -> None:
    raw = torch.zeros(3, 2, 2)
    raw[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="holds 1 NaN or infinite values"):
        to_image(raw)
