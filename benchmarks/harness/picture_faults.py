"""Nine faults and two harmless changes planted in photographs, and which of them a gate tells apart.

The limits are in this file, with the reason for each, and follow from what is called harmless: no number was read off a
measured fault. `judge_all` judges every change of every picture by them, and
by the gates of other projects; `markdown` shows what came of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import color, data

from benchmarks.harness import images, public_gates
from benchmarks.harness.golden_limits import Limits, judge
from benchmarks.harness.images import RGB, Map

SMOOTHNESS = 4.0
"""Sigma, in pixels, of the Gaussian that makes noise smooth."""

LIMITS = Limits(
    absmax=10.0,
    p99_9=7.0,
    mean=2.5,
    share_over_8=1e-4,
    bias=1.0,
    bias_block=9.0,
    psnr=42.0,
).given
"""Harmless is noise of a standard deviation s = 1.5 without a mean, rounded, and anything smaller. So

absmax        of N = 3e6 normal values the largest is about 5.2 s = 7.8; 6 s and one for rounding are 10
p99_9         of the largest of three channels: 3.6 s = 5.4, one for rounding, and rounded up
mean          of the largest of three channels: 1.33 s = 2.0, with a quarter to spare
share_over_8  three times the probability of more than 8.5 / s = 5.7 deviations is 4e-8: one pixel in 10,000 is no noise
bias          noise has no mean; a tenth of a deviation would be within chance, one level is not noise
bias_block    smooth noise may be one value throughout a block: 6 s
psnr          s and rounding (0.29) make an RMS of 1.53, 44.4 dB; 42 dB is an RMS of 2.0

SSIM and FLIP are measured and not limited: what they make of the same noise depends on the picture, dark flats above
all, so that a limit would have to be looked up on this picture first.
"""


@dataclass(frozen=True)
class Subject:
    """A picture [H, W, 3] with the places of its local faults.

    wrong, source, blurred  (row, column) of the top left corner of the wrong 32x32 tile, of the tile that it is
                            replaced with, and of the blurred 128x128 tile
    seed                    of the noise and of the ten probes
    """

    name: str
    picture: RGB
    wrong: tuple[int, int]
    source: tuple[int, int]
    blurred: tuple[int, int]
    seed: int


@dataclass(frozen=True)
class Change:
    """Something done to a picture. harmless: a gate that sees it gives a false alarm."""

    name: str
    harmless: bool
    apply: Callable[[Subject], RGB]


@dataclass(frozen=True)
class Judged:
    """One change of one picture: the gates that saw it, and our metrics with those outside their limits."""

    subject: str
    change: Change
    seen_by: frozenset[str]
    outside: tuple[str, ...]
    values: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether our limits see a fault, and nothing in a harmless change."""
        return bool(self.outside) != self.change.harmless


def subjects() -> list[Subject]:
    """Three photographs that scikit-image ships: one enlarged to 1024 x 1024, two as they are."""
    astronaut = Image.fromarray(data.astronaut()).resize((1024, 1024), Image.Resampling.LANCZOS)
    return [
        Subject("astronaut 1024x1024", np.asarray(astronaut), (704, 352), (128, 512), (416, 608), seed=1),
        Subject("coffee 600x400", data.coffee(), (90, 410), (300, 60), (150, 200), seed=2),
        Subject("chelsea 451x300", data.chelsea(), (40, 70), (220, 330), (70, 150), seed=3),
    ]


def judge_all(pictures: Sequence[Subject]) -> Iterator[Judged]:
    """Every change of every picture, as soon as it is judged."""
    for subject in pictures:
        gates = public_gates.gates(subject.picture.shape[:2], subject.seed)
        for change in CHANGES:
            changed = change.apply(subject)
            found = images.compare(subject.picture, changed)
            seen_by = frozenset(name for name, sees in gates.items() if sees(subject.picture, changed, found.values))
            outside = tuple(name for name in LIMITS if _outside(name, found))
            yield Judged(subject.name, change, seen_by, outside, found.values)


def _outside(name: str, found: images.Comparison) -> bool:
    status, reason = judge({name: found.values[name]}, {name: LIMITS[name]}, found.versions)
    if status == "not-measured":
        raise ValueError(reason)
    return status == "regressed"


def markdown(results: Sequence[Judged]) -> str:
    """Two tables: faults caught and false alarms of every gate; and the metrics that each change is outside of."""
    names = list(dict.fromkeys(result.subject for result in results))
    changes = dict.fromkeys(result.change for result in results)
    faults = sum(not change.harmless for change in changes)
    lines = [_row(f"gate: caught of {faults}, alarms of {len(changes) - faults}", *names), _rule(names)]
    for label, sees in _rows().items():
        of_each = ([r for r in results if r.subject == name] for name in names)
        lines.append(_row(label, *("{}, {}".format(*score(own, sees)) for own in of_each)))
    lines += ["", _row("change: what is outside its limit", *names), _rule(names)]
    for change in changes:
        found = (", ".join(result.outside) or "nothing" for result in results if result.change == change)
        lines.append(_row(change.name + (" (harmless)" if change.harmless else ""), *found))
    return "\n".join(lines) + "\n"


def _rows() -> dict[str, Callable[[Judged], bool]]:
    """The gates of the first table: other projects', each metric of ours, and all of them together."""
    public = {name: functools.partial(_seen_by, name) for name in public_gates.gates((1, 1), 0)}
    own = {f"`{name}` alone": functools.partial(_outside_of, name) for name in LIMITS}
    return {**public, **own, "**all of these limits**": lambda result: bool(result.outside)}


def _seen_by(gate: str, result: Judged) -> bool:
    return gate in result.seen_by


def _outside_of(metric: str, result: Judged) -> bool:
    return metric in result.outside


def score(results: Sequence[Judged], seen: Callable[[Judged], bool]) -> tuple[int, int]:
    """Faults caught, and false alarms."""
    hits = [result.change for result in results if seen(result)]
    return sum(not change.harmless for change in hits), sum(change.harmless for change in hits)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(names: Sequence[str]) -> str:
    return _row(*["---"] * (len(names) + 1))


def _rounded(values: Map) -> RGB:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _noise(deviation: float) -> Callable[[Subject], RGB]:
    """Smooth noise, another in each channel, of exactly this deviation and without a mean."""

    def apply(subject: Subject) -> RGB:
        drawn = np.random.default_rng(subject.seed).standard_normal(subject.picture.shape)
        smooth = gaussian_filter(drawn, (SMOOTHNESS, SMOOTHNESS, 0))
        smooth -= smooth.mean(axis=(0, 1))
        return _rounded(subject.picture + smooth * (deviation / smooth.std(axis=(0, 1))))

    return apply


def _dithered(subject: Subject) -> RGB:
    return _rounded(subject.picture + np.random.default_rng(subject.seed).integers(-1, 2, subject.picture.shape) * 1.0)


def _brighter(subject: Subject) -> RGB:
    return _rounded(subject.picture + 4.0)


def _tinted(subject: Subject) -> RGB:
    """3 % more red and 3 % less blue."""
    return _rounded(subject.picture * np.array([1.03, 1.0, 0.97]))


def _wrong_tile(subject: Subject) -> RGB:
    changed, (y, x), (v, u) = subject.picture.copy(), subject.wrong, subject.source
    changed[y : y + 32, x : x + 32] = subject.picture[v : v + 32, u : u + 32]
    return changed


def _blurred_tile(subject: Subject) -> RGB:
    changed, (y, x) = subject.picture.copy(), subject.blurred
    part = changed[y : y + 128, x : x + 128].astype(np.float64)
    changed[y : y + 128, x : x + 128] = _rounded(gaussian_filter(part, (2.0, 2.0, 0)))
    return changed


def _striped(subject: Subject) -> RGB:
    changed = subject.picture.astype(np.float64)
    changed[::16] += 12
    return _rounded(changed)


def _shifted(subject: Subject) -> RGB:
    """One pixel to the right; the first column is repeated."""
    return np.concatenate([subject.picture[:, :1], subject.picture[:, :-1]], axis=1)


def _blurred(subject: Subject) -> RGB:
    return _rounded(gaussian_filter(subject.picture.astype(np.float64), (0.7, 0.7, 0)))


def _redder(subject: Subject) -> RGB:
    lab = color.rgb2lab(subject.picture)
    lab[..., 1] += 4
    return _rounded(255 * color.lab2rgb(lab))


CHANGES = (
    Change("smooth noise, deviation 4", False, _noise(4.0)),
    Change("4 levels brighter", False, _brighter),
    Change("red 3 % up, blue 3 % down", False, _tinted),
    Change("one wrong 32x32 tile", False, _wrong_tile),
    Change("one blurred 128x128 tile", False, _blurred_tile),
    Change("every 16th row 12 levels up", False, _striped),
    Change("shifted by one pixel", False, _shifted),
    Change("blurred, sigma 0.7", False, _blurred),
    Change("Lab a* + 4", False, _redder),
    Change("dither of one level", True, _dithered),
    Change("smooth noise, deviation 1.5", True, _noise(1.5)),
)
"""The faults first. `_blurred_tile` uses sigma 2."""
