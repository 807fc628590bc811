"""Judges a picture without a model: which things it shows (scikit-image), and whether they are the ones asked for."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from skimage import color, measure, transform
from skimage.morphology import dilation, erosion, footprint_rectangle, opening

from training.edits import Edit
from training.render import WORD_HEIGHT, WORD_MARGIN, signed_distance
from training.world import PALETTE, PLACES, ROW, SHAPES, Claim, Scene, Thing

Floats = NDArray[np.float64]

STANDS_OUT = 20.0
"""Least CIE76 difference from the background that makes a pixel part of a thing. A texture's is at most 13."""
LEAST_AREA = 80
"""Pixels; the smallest thing of the world, a small star, has about 190."""
LEAST_LIKENESS = 0.6
"""Overlap with the best-fitting shape, below which a thing has no shape at all."""
TEMPLATE = 48
SAME_PLACE, NEAR_PLACE = 8.0, 16.0
"""Pixels between centres: for a thing that an edit leaves where it is, and for one put "on the left"."""
LEFT_ALONE = 10.0
"""Largest mean difference, of 255, outside what an edit touches. A lost texture makes 14, a resampled picture 2."""


@dataclass(frozen=True)
class Found:
    """A thing seen in a picture. shape is None if it is like none; likeness is its overlap with the shape, 0..1."""

    shape: str | None
    colour: str
    x: float
    y: float
    area: int
    likeness: float


@dataclass(frozen=True)
class Sight:
    """What a picture shows."""

    things: tuple[Found, ...]
    background: str


@dataclass(frozen=True)
class SceneScore:
    """How a picture meets a claim. Counts are of the claim's things; one that is not there is wrong in both.

    place     of a lone thing; None for more
    relation  of two things or a row; None for a lone one
    extra     things that nobody asked for
    """

    things: int
    colours: int
    shapes: int
    place: bool | None
    relation: bool | None
    background: bool
    extra: int

    @property
    def all_right(self) -> bool:
        """Nothing is wrong, missing or too much."""
        counts = self.things == self.colours == self.shapes and self.extra == 0
        return counts and self.background and self.place is not False and self.relation is not False


@dataclass(frozen=True)
class EditScore:
    """done: what the instruction says has happened. kept: everything else is as it was, to the eye and in pixels."""

    done: bool
    kept: bool

    @property
    def all_right(self) -> bool:
        """Both."""
        return self.done and self.kept


@dataclass(frozen=True)
class Share:
    """right of total, with the 95 % Wilson interval."""

    right: int
    total: int

    @property
    def value(self) -> float:
        """The share itself; NaN of nothing."""
        return self.right / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high). Raises ValueError for a share of nothing."""
        if not self.total:
            raise ValueError("a share of 0 trials has no interval; score at least one")
        ci = binomtest(self.right, self.total).proportion_ci(0.95, method="wilson")
        return float(ci.low), float(ci.high)


def see(picture: Image.Image, has_word: bool) -> Sight:
    """Find the things in a picture. With has_word, what stands where words stand is not a thing."""
    rgb = np.asarray(picture.convert("RGB"))
    lab = color.rgb2lab(rgb)
    ground = _fit_background(lab)
    stands_out = np.linalg.norm(lab - ground, axis=-1) > STANDS_OUT
    if has_word:
        stands_out[-(WORD_HEIGHT + 2 * WORD_MARGIN) :] = False
    mask = opening(stands_out, footprint_rectangle((3, 3)))
    labels = measure.label(mask, connectivity=1)
    regions = [region for region in measure.regionprops(labels) if region.area >= LEAST_AREA]
    things = tuple(_identify(region, labels, lab, ground) for region in regions)
    return Sight(things, nearest_colour(ground[: len(ground) // 8].mean((0, 1))))


def nearest_colour(lab: Floats) -> str:
    """The palette's name for a CIE Lab colour [3]."""
    names, values = _palette()
    return names[int(np.linalg.norm(values - lab, axis=1).argmin())]


def judge(claim: Claim, sight: Sight, size: tuple[int, int]) -> SceneScore:
    """Compare what was asked for with what is seen in a picture of that (width, height)."""
    matched = _match(claim, sight)
    colours = sum(found is not None and found.colour == want[1] for want, found in matched)
    shapes = sum(found is not None and found.shape == want[2] for want, found in matched)
    places = [found for _, found in matched]
    lone = len(places) == 1
    return SceneScore(
        things=len(matched),
        colours=colours,
        shapes=shapes,
        place=_at_place(places[0], claim.arrangement, size) if lone else None,
        relation=None if lone else related(places, claim.arrangement),
        background=sight.background == claim.background[0],
        extra=max(len(sight.things) - len(matched), 0),
    )


def related(things: list[Found | None] | list[Thing], arrangement: str) -> bool:
    """Whether things, in the caption's order, are arranged as it says. A missing one never is."""
    if any(thing is None for thing in things):
        return False
    xs, ys = [thing.x for thing in things if thing], [thing.y for thing in things if thing]
    if arrangement == ROW:
        return len(xs) == 3 and xs[0] < xs[1] < xs[2]
    if len(xs) != 2:
        return False
    dx, dy = xs[0] - xs[1], ys[0] - ys[1]
    holds = {"above": dy < 0, "below": dy > 0, "to the left of": dx < 0, "to the right of": dx > 0}
    upright = arrangement in ("above", "below")
    return holds.get(arrangement, False) and (abs(dy) > abs(dx)) == upright


def judge_edit(edit: Edit, before: Image.Image, after: Image.Image) -> EditScore:
    """Compare a picture with what an edit should have made of `before`. Both have the scene's size."""
    sight = see(after, edit.after.word is not None)
    touched = [edit.after.things[i] for i in edit.touched] if edit.kind != "remove" else []
    others = [thing for i, thing in enumerate(edit.after.things) if edit.kind == "remove" or i not in edit.touched]
    reach = NEAR_PLACE if edit.kind == "add" else SAME_PLACE
    if edit.kind == "remove":
        gone = edit.before.things[edit.touched[0]]
        done = all(_distance(gone, found) > SAME_PLACE for found in sight.things)
    elif edit.kind == "background":
        done = sight.background == edit.after.background.colour
    else:
        done = all(_shows(sight, thing, reach) for thing in touched)
    same_things = all(_shows(sight, thing, SAME_PLACE) for thing in others)
    expected = len(edit.after.things)
    same_ground = edit.kind == "background" or sight.background == edit.before.background.colour
    unlike = _difference_elsewhere(edit, before, after, sight)
    kept = same_things and same_ground and len(sight.things) <= expected and unlike <= LEFT_ALONE
    return EditScore(done, kept)


def judge_caption(claim: Claim | None, scene: Scene) -> SceneScore:
    """Compare what a caption claims with the scene that the picture shows. A sentence that is none gets nothing."""
    if claim is None:
        return SceneScore(len(scene.things), 0, 0, None, False, False, 0)
    seen = Sight(
        tuple(Found(thing.shape, thing.colour, thing.x, thing.y, 0, 1.0) for thing in scene.things),
        scene.background.colour,
    )
    score = judge(claim, seen, (scene.width, scene.height))
    missed = max(len(scene.things) - len(claim.things), 0)
    return SceneScore(
        things=score.things + missed,
        colours=score.colours,
        shapes=score.shapes,
        place=score.place,
        relation=score.relation,
        background=score.background,
        extra=max(len(claim.things) - len(scene.things), 0),
    )


def _match(claim: Claim, sight: Sight) -> list[tuple[tuple[str, str, str], Found | None]]:
    """Each wanted thing and the found one that it is, if any: the pairing with the fewest mistakes."""
    if not sight.things:
        return [(want, None) for want in claim.things]
    mistakes = np.array(
        [[(found.colour != want[1]) + (found.shape != want[2]) for found in sight.things] for want in claim.things]
    )
    chosen = dict(zip(*linear_sum_assignment(mistakes), strict=True))
    return [(want, sight.things[chosen[i]] if i in chosen else None) for i, want in enumerate(claim.things)]


def _at_place(found: Found | None, place: str, size: tuple[int, int]) -> bool:
    if found is None:
        return False
    x, y = found.x / size[0], found.y / size[1]
    return min(PLACES, key=lambda name: (PLACES[name][0] - x) ** 2 + (PLACES[name][1] - y) ** 2) == place


def _distance(thing: Thing, found: Found) -> float:
    return float(np.hypot(thing.x - found.x, thing.y - found.y))


def _shows(sight: Sight, thing: Thing, reach: float) -> bool:
    return any(
        found.colour == thing.colour and found.shape == thing.shape and _distance(thing, found) <= reach
        for found in sight.things
    )


def _difference_elsewhere(edit: Edit, before: Image.Image, after: Image.Image, sight: Sight) -> float:
    """Mean difference of 255 away from what the edit touches; 0 for an edit of the whole background."""
    if edit.kind == "background":
        return 0.0
    scene = edit.before if edit.kind == "remove" else edit.after
    touched = [scene.things[i] for i in edit.touched]
    # An added thing stands where the model put it.
    centres = [(thing.x, thing.y, thing.radius) for thing in touched]
    if edit.kind == "add":
        near = [found for found in sight.things if _distance(touched[0], found) <= NEAR_PLACE]
        centres += [(found.x, found.y, touched[0].radius) for found in near]
    y, x = np.mgrid[: before.height, : before.width] + 0.5
    elsewhere = np.ones((before.height, before.width), dtype=bool)
    for cx, cy, radius in centres:
        elsewhere &= np.maximum(np.abs(x - cx), np.abs(y - cy)) > 1.3 * radius + 4
    old, new = (np.asarray(picture.convert("RGB"), dtype=np.float64) for picture in (before, after))
    return float(np.abs(old - new)[elsewhere].mean())


def _fit_background(lab: Floats) -> Floats:
    """[H, W, 3]: a plane through the pixels that are background, found from the picture's edge inwards."""
    h, w, _ = lab.shape
    y, x = np.mgrid[:h, :w]
    design = np.stack([np.ones((h, w)), y / h, x / w], axis=-1)
    edge = np.ones((h, w), dtype=bool)
    edge[4:-4, 4:-4] = False
    use = edge & (np.linalg.norm(lab - np.median(lab[edge], axis=0), axis=-1) < 2.5 * STANDS_OUT)
    for _ in range(4):
        plane: Floats = design @ np.linalg.lstsq(design[use], lab[use], rcond=None)[0]
        use = np.linalg.norm(lab - plane, axis=-1) < STANDS_OUT
        if use.sum() < edge.sum():
            break
    return plane


def _identify(region: Any, labels: NDArray[np.int64], lab: Floats, ground: Floats) -> Found:
    top, left, bottom, right = region.bbox
    box = (slice(max(top - 3, 0), bottom + 3), slice(max(left - 3, 0), right + 3))
    mine = labels[box] == region.label
    core = erosion(mine, footprint_rectangle((3, 3)))
    tone = np.median(lab[box][core if core.any() else mine], axis=0)
    # How much of the thing's colour a pixel holds, 0..1: finer than a yes or no at soft edges.
    toward = tone - ground[box]
    cover = ((lab[box] - ground[box]) * toward).sum(-1) / (toward**2).sum(-1).clip(min=1e-6)
    near = dilation(mine, footprint_rectangle((7, 7)))  # the opening took the thin tips
    shape, likeness = _best_shape(np.where(near, cover.clip(0, 1), 0.0))
    cy, cx = (top + bottom) / 2, (left + right) / 2
    return Found(shape, nearest_colour(tone), cx, cy, int(region.area), likeness)


def _best_shape(cover: Floats) -> tuple[str | None, float]:
    mask = transform.resize(_cropped(cover), (TEMPLATE, TEMPLATE), order=1, anti_aliasing=False) > 0.5
    likeness = {
        name: float((mask & template).sum() / max((mask | template).sum(), 1))
        for name, template in _templates().items()
    }
    best = max(likeness, key=lambda name: likeness[name])
    return (best if likeness[best] >= LEAST_LIKENESS else None), likeness[best]


def _cropped(cover: Floats) -> Floats:
    """The part that holds anything of note."""
    rows, columns = (np.flatnonzero((cover > 0.5).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return cover
    return cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@cache
def _templates() -> dict[str, NDArray[np.bool_]]:
    """Each shape filling a square."""
    line = (torch.arange(256) + 0.5) / 128 - 1
    y, x = torch.meshgrid(1.3 * line, 1.3 * line, indexing="ij")
    big = {name: (signed_distance(name, x, y) < 0).double().numpy() for name in SHAPES}
    return {
        name: transform.resize(_cropped(mask), (TEMPLATE, TEMPLATE), order=1, anti_aliasing=True) > 0.5
        for name, mask in big.items()
    }


@cache
def _palette() -> tuple[list[str], Floats]:
    values = np.array(list(PALETTE.values()), dtype=np.float64)[None] / 255
    return list(PALETTE), color.rgb2lab(values)[0]
