"""The scorer is right about the renderer's own pictures: clean, and blurred and noisy as an autoencoder leaves them."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.edits import draw_edit
from training.render import picture_of
from training.scorer import Share, judge, judge_caption, judge_edit, see
from training.world import PALETTE, Claim, caption, draw, parse

SIZE = (128, 128)


def clean(picture: Image.Image) -> Image.Image:
    return picture


def worn(picture: Image.Image) -> Image.Image:
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.8))).astype(float)
    noisy = blurred + np.random.default_rng(0).normal(0, 4, blurred.shape)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def claim_of(text: str) -> Claim:
    claim = parse(text)
    assert claim is not None
    return claim


def right_scenes(n: int, wear: Callable[[Image.Image], Image.Image]) -> Share:
    right = 0
    for seed in range(n):
        scene = draw(Random(seed))
        sight = see(wear(picture_of(scene)), scene.word is not None)
        right += judge(claim_of(caption(scene)), sight, SIZE).all_right
    return Share(right, n)


def right_edits(n: int, wear: Callable[[Image.Image], Image.Image]) -> Share:
    edits = [draw_edit(Random(seed)) for seed in range(n)]
    return Share(sum(judge_edit(e, picture_of(e.before), wear(picture_of(e.after))).all_right for e in edits), n)


@pytest.mark.parametrize("wear", [clean, worn])
@pytest.mark.parametrize("judged", [right_scenes, right_edits])
def test_the_renderers_own_pictures_are_right(judged: Callable[..., Share], wear: Callable[..., Image.Image]) -> None:
    assert judged(120, wear).value >= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("wear", [clean, worn])
@pytest.mark.parametrize("judged", [right_scenes, right_edits])
def test_at_least_995_in_1000_are_right(judged: Callable[..., Share], wear: Callable[..., Image.Image]) -> None:
    assert judged(2000, wear).interval[0] >= 0.995


def test_a_picture_left_as_it_was_is_no_edit() -> None:
    edits = [draw_edit(Random(seed)) for seed in range(60)]
    assert not any(judge_edit(edit, (before := picture_of(edit.before)), before).done for edit in edits)


def test_an_edit_that_loses_something_else_has_not_kept_it() -> None:
    edits = [
        edit
        for seed in range(200)
        if (edit := draw_edit(Random(seed))).kind == "recolour" and len(edit.after.things) > 1
    ]
    for edit in edits[:10]:
        lone = replace(edit.after, things=(edit.after.things[edit.touched[0]],))
        score = judge_edit(edit, picture_of(edit.before), picture_of(lone))
        assert (score.done, score.kept) == (True, False)


def test_an_edit_that_loses_the_texture_has_not_kept_it() -> None:
    drawn = [draw_edit(Random(seed)) for seed in range(400)]
    edits = [edit for edit in drawn if edit.kind == "reshape" and edit.after.background.texture == "striped"]
    for edit in edits[:10]:
        plain = replace(edit.after, background=replace(edit.after.background, texture="plain"))
        assert not judge_edit(edit, picture_of(edit.before), picture_of(plain)).kept


WRONG = {
    "colour": ("a green circle above a blue square on a yellow background", (1, 2, True)),
    "shape": ("a red star above a blue square on a yellow background", (2, 1, True)),
    "relation": ("a red circle below a blue square on a yellow background", (2, 2, False)),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_one_mistake_is_named_and_only_that(mistake: str) -> None:
    text, expected = WRONG[mistake]
    wanted = claim_of("a red circle above a blue square on a yellow background")
    scene = next(s for seed in range(10**5) if (s := draw(Random(seed))).arrangement == "above" and not s.word)
    things = claim_of(text).things
    shown = [
        replace(thing, colour=colour, shape=shape, rgb=PALETTE[colour])
        for thing, (_, colour, shape) in zip(scene.things, things, strict=True)
    ]
    shown = shown if mistake != "relation" else [replace(shown[0], y=96.0), replace(shown[1], y=32.0)]
    ground = replace(scene.background, colour="yellow", texture="plain", rgb=(245, 220, 50))
    score = judge(wanted, see(picture_of(replace(scene, things=tuple(shown), background=ground)), False), SIZE)
    assert (score.colours, score.shapes, score.relation) == expected


def test_an_empty_picture_shows_nothing() -> None:
    sight = see(Image.new("RGB", SIZE, PALETTE["yellow"]), False)
    score = judge(claim_of("a red circle above a blue square on a yellow background"), sight, SIZE)
    assert (score.colours, score.shapes, score.relation, score.background) == (0, 0, False, True)


def test_one_thing_too_many_is_extra() -> None:
    scene = next(s for seed in range(100) if len((s := draw(Random(seed))).things) == 2 and not s.word)
    first = scene.things[0]
    claim = Claim(((first.size, first.colour, first.shape),), "in the centre", (scene.background.colour, "plain"), None)
    assert judge(claim, see(picture_of(scene), False), SIZE).extra == 1


def test_a_caption_is_judged_by_the_scene() -> None:
    scene = draw(Random(3))
    assert judge_caption(parse(caption(scene)), scene).all_right
    assert not judge_caption(None, scene).all_right


def test_an_interval_is_wilsons() -> None:
    assert Share(95, 100).interval == pytest.approx((0.8882, 0.9785), abs=1e-4)
