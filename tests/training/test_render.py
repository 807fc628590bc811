from random import Random

import numpy as np
import pytest
import torch

from training.render import pack, picture_of, render, wild_rows
from training.world import REACH, SHAPES, TEXTURES, Background, Scene, Thing, draw

GREY = Background("white", "plain", (245, 245, 245))


def one_thing(shape: str, background: Background = GREY, word: str | None = None) -> Scene:
    return Scene(
        128, 128, (Thing(shape, "red", "large", 64, 64, 22, (215, 35, 40)),), background, word, "in the centre"
    )


def test_the_same_rows_make_the_same_pictures() -> None:
    rows = torch.from_numpy(np.stack([pack(draw(Random(seed))) for seed in range(8)]))
    assert torch.equal(render(rows, 128, 128), render(rows, 128, 128))


def test_a_picture_does_not_depend_on_its_batch() -> None:
    rows = torch.from_numpy(np.stack([pack(draw(Random(seed))) for seed in range(8)]))
    assert torch.equal(render(rows, 128, 128)[5:6], render(rows[5:6], 128, 128))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_has_its_colour_and_stays_within_its_reach(shape: str) -> None:
    picture = np.asarray(picture_of(one_thing(shape))).astype(int)
    y, x = np.nonzero(np.abs(picture - 245).max(-1) > 60)
    assert np.hypot(x + 0.5 - 64, y + 0.5 - 64).max() < 22 * REACH + 1
    assert (picture == (215, 35, 40)).all(-1).sum() > 300


@pytest.mark.parametrize("texture", TEXTURES[1:])
def test_a_texture_shows(texture: str) -> None:
    plain, other = (np.asarray(picture_of(one_thing("circle", Background("blue", t, (40, 70, 210)))))
                    for t in ("plain", texture))  # fmt: skip
    assert (plain != other).mean() > 0.1


def test_a_word_stands_at_the_bottom() -> None:
    with_word, without = (np.asarray(picture_of(one_thing("circle", word=word))) for word in ("SUN", None))
    rows = np.nonzero((with_word != without).any((1, 2)))[0]
    assert (rows.min(), rows.max()) == (111, 124)


def test_wild_rows_are_drawn_at_any_size() -> None:
    rows = torch.from_numpy(wild_rows(np.random.default_rng(0), 16, 96))
    assert render(rows, 96, 160).shape == (16, 3, 96, 160)
