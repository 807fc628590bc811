from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from training.data import Order, draw_new
from training.edits import KINDS, Edit, draw_edit
from training.world import COLOUR_JITTER, PALETTE, ROW, Claim, Scene, apart, caption, draw, held_out, parse

SCENES = [draw(Random(seed)) for seed in range(400)]
EDITS = [draw_edit(Random(seed)) for seed in range(400)]


@pytest.mark.parametrize("make", [draw, draw_edit], ids=["scene", "edit"])
def test_a_seed_draws_the_same_every_time(make: Callable[[Random], object]) -> None:
    assert make(Random("a")) == make(Random("a")) != make(Random("b"))


def test_a_known_seed_draws_this_scene() -> None:
    # Held-out prompts and goldens are named by it: a change here is a change of the world.
    assert caption(draw(Random(7))) == "a small red ring below an orange square on a purple gradient background"


def test_a_caption_says_what_is_in_the_scene() -> None:
    for scene in SCENES:
        things = tuple((thing.size, thing.colour, thing.shape) for thing in scene.things)
        ground = (scene.background.colour, scene.background.texture)
        assert parse(caption(scene)) == Claim(things, scene.arrangement or "", ground, scene.word)


def test_things_stand_where_the_caption_says() -> None:
    for scene in SCENES:
        one, *others = scene.things
        for other in others[:1]:
            beside = {
                "above": one.y < other.y,
                "below": one.y > other.y,
                "to the left of": one.x < other.x,
                "to the right of": one.x > other.x,
                ROW: one.x < other.x < scene.things[-1].x,
            }
            assert beside[scene.arrangement or ""]


def test_things_keep_apart_and_unlike_the_background() -> None:
    for scene in [*SCENES, *(edit.after for edit in EDITS)]:
        for i, thing in enumerate(scene.things):
            assert thing.colour != scene.background.colour
            assert all(apart(thing, other) for other in scene.things[:i])


@pytest.mark.parametrize("text", ["", "a red circle", "a red blob on the left on a blue background"])
def test_what_is_no_caption_is_not_read(text: str) -> None:
    assert parse(text) is None


def test_an_edited_scene_has_no_caption() -> None:
    with pytest.raises(ValueError, match="has no caption"):
        caption(EDITS[0].after)


def test_every_kind_of_edit_is_drawn() -> None:
    assert {edit.kind for edit in EDITS} == set(KINDS)


@pytest.mark.parametrize("edit", EDITS[:60], ids=lambda edit: edit.instruction)
def test_an_edit_changes_what_it_touches_and_nothing_else(edit: Edit) -> None:
    before, after = list(edit.before.things), list(edit.after.things)
    if edit.kind == "remove":
        del before[edit.touched[0]]
    elif edit.kind == "add":
        del after[edit.touched[0]]
    changed = {i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    assert changed == (set() if edit.kind in ("remove", "add", "background") else set(edit.touched))
    assert (edit.before.background != edit.after.background) == (edit.kind == "background")


def test_a_swap_exchanges_the_colours() -> None:
    swap = next(edit for edit in EDITS if edit.kind == "swap")
    assert [thing.colour for thing in swap.after.things] == [thing.colour for thing in swap.before.things][::-1]


def test_about_one_text_in_twenty_is_held_out() -> None:
    share = sum(held_out(str(i)) for i in range(4000)) / 4000
    assert 0.035 < share < 0.065


def test_training_never_draws_a_held_out_caption(tiny_folder: Path) -> None:
    rng, order = Random(0), Order("scene", 128, 128, tiny_folder)
    drawn: list[Scene] = [draw_new(rng, order) for _ in range(300)]
    assert not any(held_out(caption(scene)) for scene in drawn)


def test_the_palette_names_differ_by_more_than_jitter() -> None:
    colours = list(PALETTE.values())
    pairs = [(one, two) for one in colours for two in colours if one != two]
    assert min(max(abs(a - b) for a, b in zip(one, two, strict=True)) for one, two in pairs) > 5 * COLOUR_JITTER
