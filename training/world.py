"""The world the small model learns: scenes of coloured shapes, their captions, and edits. Standard library only.

A scene has one, two or three things on a background. Everything that a caption says can be read off the picture and
nothing else varies but small jitter, so that a scorer can judge a picture without a model. Lengths are pixels.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from random import Random

Rgb = tuple[int, int, int]

PALETTE: dict[str, Rgb] = {
    "red": (215, 35, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 220, 50),
    "green": (45, 155, 60),
    "cyan": (70, 205, 220),
    "blue": (40, 70, 210),
    "purple": (160, 45, 165),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond")
RADII = {"small": (12.5, 14.0), "medium": (16.5, 18.5), "large": (21.5, 23.5)}
"""Range of a thing's radius in a picture whose shorter side is 128."""
PLACES = {
    "in the centre": (0.5, 0.5),
    "on the left": (0.23, 0.5),
    "on the right": (0.77, 0.5),
    "at the top": (0.5, 0.23),
    "at the bottom": (0.5, 0.77),
}
"""Where a thing is, as shares of width and height."""
RELATIONS = {
    "above": ((0.5, 0.25), (0.5, 0.75)),
    "below": ((0.5, 0.75), (0.5, 0.25)),
    "to the left of": ((0.25, 0.5), (0.75, 0.5)),
    "to the right of": ((0.75, 0.5), (0.25, 0.5)),
}
ROW = "from left to right"
ROW_PLACES = ((0.18, 0.5), (0.5, 0.5), (0.82, 0.5))
TEXTURES = ("plain", "gradient", "striped", "checkered", "dotted")
WORDS = ("SUN", "MOON", "CAT", "DOG", "TEA", "GO", "ART", "OK")
COLOUR_JITTER, PLACE_JITTER = 6, 2.5
GAP = 3.0
"""Least distance between the outlines of two things."""
REACH = 1.17
"""A shape's farthest point, in radii (see render.py)."""
HELD_OUT = 20
"""One text in this many is never trained on."""


@dataclass(frozen=True)
class Thing:
    """One shape: centre and radius in pixels, and the exact colour, which is the named one but for jitter."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    rgb: Rgb


@dataclass(frozen=True)
class Background:
    """A named colour with a texture of slightly darker or lighter tones of it."""

    colour: str
    texture: str
    rgb: Rgb


@dataclass(frozen=True)
class Scene:
    """A picture's content. `arrangement` is a place, a relation or ROW, as the caption says it.

    The scene after an edit has no arrangement, and so no caption.
    """

    width: int
    height: int
    things: tuple[Thing, ...]
    background: Background
    word: str | None = None
    arrangement: str | None = None


@dataclass(frozen=True)
class Claim:
    """What a caption says of the picture: things as (size, colour, shape), in the caption's order."""

    things: tuple[tuple[str, str, str], ...]
    arrangement: str
    background: tuple[str, str]
    word: str | None


def with_article(words: str) -> str:
    """ "red circle" -> "a red circle", "orange star" -> "an orange star"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def name_of(size: str, colour: str, shape: str) -> str:
    """ "a small red circle"; medium is not said."""
    return with_article(f"{'' if size == 'medium' else size + ' '}{colour} {shape}")


def caption(scene: Scene) -> str:
    """The sentence that describes a scene. Raises ValueError for a scene without arrangement."""
    names = [name_of(thing.size, thing.colour, thing.shape) for thing in scene.things]
    if scene.arrangement in PLACES:
        things = f"{names[0]} {scene.arrangement}"
    elif scene.arrangement in RELATIONS:
        things = f"{names[0]} {scene.arrangement} {names[1]}"
    elif scene.arrangement == ROW:
        things = f"{names[0]}, {names[1]} and {names[2]} {ROW}"
    else:
        raise ValueError(f"arrangement {scene.arrangement!r} has no caption; only drawn scenes do, not edited ones")
    ground = scene.background
    texture = "" if ground.texture == "plain" else f" {ground.texture}"
    word = "" if scene.word is None else f' with the word "{scene.word}"'
    return f"{things} on {with_article(ground.colour + texture + ' background')}{word}"


_NAME = rf"an? (?:(small|large) )?({'|'.join(PALETTE)}) ({'|'.join(SHAPES)})"
_GROUND = rf" on an? ({'|'.join(PALETTE)})(?: ({'|'.join(TEXTURES[1:])}))? background(?: with the word \"(\w+)\")?"
_FORMS = (
    re.compile(rf"{_NAME} ({'|'.join(PLACES)}){_GROUND}"),
    re.compile(rf"{_NAME} ({'|'.join(RELATIONS)}) {_NAME}{_GROUND}"),
    re.compile(rf"{_NAME}, {_NAME} and {_NAME} ({ROW}){_GROUND}"),
)


def parse(text: str) -> Claim | None:
    """Read a caption back; None if it is not one."""
    for form, where in zip(_FORMS, (3, 3, 9), strict=True):
        if match := form.fullmatch(text):
            fields = list(match.groups())
            colour, texture, word = fields[-3:]
            arrangement = fields.pop(where)
            names = fields[:-3]
            things = tuple((names[i] or "medium", names[i + 1], names[i + 2]) for i in range(0, len(names), 3))
            return Claim(things, arrangement, (colour, texture or "plain"), word)
    return None


def held_out(text: str) -> bool:
    """Whether a caption, or an edit's key, belongs to the test: decided by its sha256 alone."""
    return hashlib.sha256(text.encode()).digest()[0] * HELD_OUT < 256


def draw(rng: Random, width: int = 128, height: int = 128) -> Scene:
    """A random scene."""
    kind = rng.random()
    n = 1 if kind < 0.3 else 2 if kind < 0.85 else 3
    arrangement = rng.choice(tuple(PLACES)) if n == 1 else rng.choice(tuple(RELATIONS)) if n == 2 else ROW
    background = Background(colour := rng.choice(tuple(PALETTE)), _texture(rng), jittered(rng, colour))
    places = (PLACES[arrangement],) if n == 1 else RELATIONS[arrangement] if n == 2 else ROW_PLACES
    things: list[Thing] = []
    for place in places:
        taken = {(thing.colour, thing.shape) for thing in things}
        while (look := (_other(rng, tuple(PALETTE), colour), rng.choice(SHAPES))) in taken:
            pass
        # Three in a row leave room for one size only, which then goes without saying.
        size = "medium" if n == 3 else rng.choices(tuple(RADII), (0.25, 0.5, 0.25))[0]
        radii = RADII["small" if n == 3 else size]
        things.append(put(rng, look, size, radii, place, (width, height)))
    free_below = arrangement not in ("at the bottom", "above", "below")
    word = rng.choice(WORDS) if free_below and rng.random() < 0.15 else None
    return Scene(width, height, tuple(things), background, word, arrangement)


def put(
    rng: Random,
    look: tuple[str, str],
    size: str,
    radii: tuple[float, float],
    place: tuple[float, float],
    picture: tuple[int, int],
) -> Thing:
    """A thing of that (colour, shape) near a place given in shares of the picture's (width, height)."""
    unit = min(picture) / 128
    x, y = (share * side + rng.uniform(-PLACE_JITTER, PLACE_JITTER) for share, side in zip(place, picture, strict=True))
    return Thing(look[1], look[0], size, x, y, rng.uniform(*radii) * unit, jittered(rng, look[0]))


def jittered(rng: Random, colour: str) -> Rgb:
    """The named colour, each channel off by at most COLOUR_JITTER."""
    r, g, b = (channel + rng.randint(-COLOUR_JITTER, COLOUR_JITTER) for channel in PALETTE[colour])
    return r, g, b


def apart(one: Thing, other: Thing) -> bool:
    """Whether two things leave the gap between them."""
    distance = math.hypot(one.x - other.x, one.y - other.y)
    return distance >= REACH * (one.radius + other.radius) + GAP


def _texture(rng: Random) -> str:
    return "plain" if rng.random() < 0.5 else rng.choice(TEXTURES[1:])


def _other(rng: Random, values: tuple[str, ...], *excluded: str) -> str:
    return rng.choice([value for value in values if value not in excluded])
