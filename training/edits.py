"""Edits of scenes: an instruction, the scene before it and the scene after it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from training.world import (
    PALETTE,
    RADII,
    SHAPES,
    Background,
    Scene,
    Thing,
    apart,
    caption,
    draw,
    jittered,
    name_of,
    put,
)

ADD_PLACES = {
    "on the left": (0.15, 0.5),
    "on the right": (0.85, 0.5),
    "at the top": (0.5, 0.15),
    "at the bottom": (0.5, 0.85),
}
"""Where a thing is added: nearer to the edge than where things are drawn, to leave room for those."""


@dataclass(frozen=True)
class Edit:
    """`touched` holds the indices, in the scene after the edit, of the things that the instruction is about.

    A removed thing is the index that it had before. kind: a name of KINDS.
    """

    kind: str
    instruction: str
    before: Scene
    after: Scene
    touched: tuple[int, ...]

    @property
    def key(self) -> str:
        """What decides whether the edit is held out."""
        return f"{caption(self.before)} | {self.instruction}"


def draw_edit(rng: Random, width: int = 128, height: int = 128) -> Edit:
    """A random scene and a random edit that is possible on it."""
    while True:
        scene, kind = draw(rng, width, height), rng.choice(tuple(KINDS))
        if edit := KINDS[kind](rng, scene):
            return edit


def mention(scene: Scene, index: int) -> str:
    """ "the circle", or "the red circle" if there are more circles."""
    thing = scene.things[index]
    alone = sum(other.shape == thing.shape for other in scene.things) == 1
    return f"the {thing.shape}" if alone else f"the {thing.colour} {thing.shape}"


def _edited(scene: Scene, things: tuple[Thing, ...] | list[Thing]) -> Scene:
    return replace(scene, things=tuple(things), arrangement=None)


def _free_colours(scene: Scene, shape: str) -> list[str]:
    """Colours for a thing of that shape that leave it visible and unlike every other thing."""
    taken = {thing.colour for thing in scene.things if thing.shape == shape} | {scene.background.colour}
    return [colour for colour in PALETTE if colour not in taken]


def _recolour(rng: Random, scene: Scene) -> Edit | None:
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    colour = rng.choice(_free_colours(scene, thing.shape))
    things = list(scene.things)
    things[index] = replace(thing, colour=colour, rgb=jittered(rng, colour))
    text = f"make {mention(scene, index)} {colour}"
    return Edit("recolour", text, scene, _edited(scene, things), (index,))


def _reshape(rng: Random, scene: Scene) -> Edit | None:
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    taken = {other.shape for other in scene.things}
    shape = rng.choice([name for name in SHAPES if name not in taken])
    things = list(scene.things)
    things[index] = replace(thing, shape=shape)
    text = f"turn {mention(scene, index)} into a {shape}"
    return Edit("reshape", text, scene, _edited(scene, things), (index,))


def _remove(rng: Random, scene: Scene) -> Edit | None:
    if len(scene.things) < 2:
        return None
    index = rng.randrange(len(scene.things))
    things = [thing for i, thing in enumerate(scene.things) if i != index]
    return Edit("remove", f"remove {mention(scene, index)}", scene, _edited(scene, things), (index,))


def _add(rng: Random, scene: Scene) -> Edit | None:
    if len(scene.things) > 2:
        return None
    place = rng.choice(tuple(ADD_PLACES))
    shape = rng.choice(SHAPES)
    colour = rng.choice(_free_colours(scene, shape))
    thing = put(rng, (colour, shape), "small", RADII["small"], ADD_PLACES[place], (scene.width, scene.height))
    if not all(apart(thing, other) for other in scene.things) or (scene.word and place == "at the bottom"):
        return None
    text = f"add {name_of('small', colour, shape)} {place}"
    return Edit("add", text, scene, _edited(scene, [*scene.things, thing]), (len(scene.things),))


def _swap(rng: Random, scene: Scene) -> Edit | None:
    if len(scene.things) != 2 or scene.things[0].colour == scene.things[1].colour:
        return None
    one, two = scene.things
    things = (replace(one, colour=two.colour, rgb=two.rgb), replace(two, colour=one.colour, rgb=one.rgb))
    return Edit("swap", "swap the colours", scene, _edited(scene, things), (0, 1))


def _ground(rng: Random, scene: Scene) -> Edit | None:
    taken = {thing.colour for thing in scene.things} | {scene.background.colour}
    colour = rng.choice([name for name in PALETTE if name not in taken])
    ground = Background(colour, scene.background.texture, jittered(rng, colour))
    after = replace(_edited(scene, scene.things), background=ground)
    return Edit("background", f"make the background {colour}", scene, after, ())


KINDS: dict[str, Callable[[Random, Scene], Edit | None]] = {
    "recolour": _recolour,
    "reshape": _reshape,
    "remove": _remove,
    "add": _add,
    "swap": _swap,
    "background": _ground,
}
