"""How two pictures differ: every metric, all of them computed before anything is judged.

Pictures are arrays [H, W, 3] of uint8. A difference is actual minus expected, in int16 so that it cannot wrap. The
difference of a pixel is that of its most different channel.
"""

from __future__ import annotations

import hashlib
import io
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image, ImageDraw

from benchmarks.harness.environment import version_of
from benchmarks.harness.records import LatentError, write_atomic

RGB = npt.NDArray[np.uint8]
Map = npt.NDArray[np.floating[typing.Any]]

DEFINITION = 1
"""Version of the definitions in this file. It is part of every golden: limits set under another one are not applied."""

THRESHOLDS = (0, 2, 8)
"""share_over_<t> is the share of pixels that differ by more than t."""

TILE, BLOCK = 64, 16
"""Sides, in pixels, of the tiles that SSIM and FLIP are averaged over, and of the blocks of the bias."""

SSIM_WINDOW = 11
"""What a Gaussian of sigma 1.5, cut at 3.5 sigma, needs. A smaller picture has no SSIM."""

AT_LEAST = frozenset({"psnr", "ssim", "ssim_worst_tile", "latent_cosine"})
"""Metrics that fall when pictures differ; all others rise."""

SHEET_SIDE, TITLE, GAP = 256, 20, 8
"""Pixels: the side that a small picture is enlarged towards, the height of a title, the space between pictures."""

SSIM_NAMES = ("ssim", "ssim_worst_tile")
FLIP_NAMES = ("flip_mean", "flip_p99", "flip_worst_tile")
SIGNATURE, COLOUR_TYPE_RGB = b"\x89PNG\r\n\x1a\n", 2


@dataclass(frozen=True)
class Comparison:
    """What was found between two pictures of one size.

    identical  the same raw RGB bytes
    values     metric -> number; NaN where it could not be computed. PSNR of identical pictures is infinite
    versions   metric -> the implementation that computed it, with its version, or why none did
    flip       the FLIP error of every pixel, 0 to 1, [H, W]; None where it could not be computed
    """

    identical: bool
    values: dict[str, float]
    versions: dict[str, str]
    flip: Map | None = None


def compare(expected: RGB, actual: RGB) -> Comparison:
    """Every metric of the picture `actual` against `expected`. Raises ValueError for another shape or dtype."""
    for name, picture in (("expected", expected), ("actual", actual)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise ValueError(f"the {name} picture is {picture.dtype} {picture.shape} but must be uint8 [H, W, 3]")
    if expected.shape != actual.shape:
        raise ValueError(f"the actual picture is {_size(actual)} but {_size(expected)} is expected; sizes must agree")
    values = _differences(actual.astype(np.int16) - expected.astype(np.int16))
    versions = dict.fromkeys(values, f"motbench {DEFINITION}")
    ssim, ssim_version = _ssim(expected, actual)
    flip, flip_version, flip_errors = _flip(expected, actual)
    for names, numbers, version in ((SSIM_NAMES, ssim, ssim_version), (FLIP_NAMES, flip, flip_version)):
        values |= dict(zip(names, numbers, strict=True))
        versions |= dict.fromkeys(names, version)
    return Comparison(fingerprint(expected) == fingerprint(actual), values, versions, flip_errors)


def fingerprint(picture: RGB) -> str:
    """Shape and sha256 of the raw RGB bytes, row by row: "64x80x3:9f86d0...". The same for any encoding of a file."""
    return f"{'x'.join(map(str, picture.shape))}:{hashlib.sha256(picture.tobytes()).hexdigest()}"


def _differences(signed: npt.NDArray[np.int16]) -> dict[str, float]:
    largest = np.abs(signed).max(axis=2)
    square = float(np.square(signed, dtype=np.float64).mean())
    red, green, blue = (float(mean) for mean in signed.mean(axis=(0, 1)))
    return {
        "absmax": float(largest.max()),
        "p99_9": float(np.percentile(largest, 99.9)),
        "mean": float(largest.mean()),
        **{f"share_over_{t}": float((largest > t).mean()) for t in THRESHOLDS},
        "bias_red": red,
        "bias_green": green,
        "bias_blue": blue,
        "bias": max(abs(red), abs(green), abs(blue)),
        "bias_block": float(np.abs(tile_means(signed, BLOCK)).max()),
        "psnr": 10 * math.log10(255**2 / square) if square else math.inf,
    }


def _ssim(expected: RGB, actual: RGB) -> tuple[tuple[float, float], str]:
    """SSIM of the whole picture, and of the worst tile of its full map, borders included."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        return (math.nan, math.nan), f"scikit-image does not import ({error}); pip install scikit-image"
    if min(expected.shape[:2]) < SSIM_WINDOW:
        return (math.nan, math.nan), f"undefined: {_size(expected)} is smaller than the {SSIM_WINDOW}-pixel window"
    mean, full = structural_similarity(
        expected,
        actual,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    version = f"skimage.metrics.structural_similarity {version_of('scikit-image')}, Gaussian window of sigma 1.5"
    return (float(mean), float(tile_means(full, TILE).mean(axis=2).min())), version


def _flip(expected: RGB, actual: RGB) -> tuple[tuple[float, float, float], str, Map | None]:
    """FLIP for a low dynamic range at the package's own viewing distance: mean, 99th percentile, worst tile, map."""
    try:
        import flip_evaluator
    except ImportError as error:
        return (math.nan,) * 3, f"flip-evaluator does not import ({error}); pip install flip-evaluator", None
    # Arrays only: given a path that it cannot read, the package ends the process.
    reference, test = (np.divide(picture, 255, dtype=np.float32) for picture in (expected, actual))
    errors, _, parameters = flip_evaluator.evaluate(reference, test, "LDR", applyMagma=False)
    numbers = (
        float(errors.mean(dtype=np.float64)),
        float(np.percentile(errors, 99)),
        float(tile_means(errors, TILE).max()),
    )
    version = f"flip-evaluator {version_of('flip-evaluator')}, LDR, {parameters['ppd']:.2f} pixels per degree"
    return numbers, version, errors[..., 0]


def tile_means(values: npt.NDArray[typing.Any], side: int) -> Map:
    """Means [rows, columns, C] of the tiles of `values` [H, W, C], in float64.

    Tiles are side x side from the top left; the last of a row or column lies flush with the edge and may overlap its
    neighbour, so that all have one size. A picture smaller than a tile is one tile.
    """
    sums = np.pad(values.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
    (top, bottom), (left, right) = (_edges(length, side) for length in values.shape[:2])
    totals = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    means: Map = totals / (min(side, values.shape[0]) * min(side, values.shape[1]))
    return means


def _edges(length: int, side: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    starts = np.minimum(np.arange(0, length, side), max(length - side, 0))
    return starts, np.minimum(starts + side, length)


def latent_errors(field: typing.Literal["x_t", "v_t"], expected: Map, actual: Map) -> list[LatentError]:
    """One error per update between two trajectories [updates, n, width], in float64. Raises ValueError.

    The relative L2 error of anything but zero against zero is infinite, and their cosine 0.
    """
    if expected.shape != actual.shape:
        raise ValueError(f"{field} is {actual.shape} but must be {expected.shape}; run the same case with both")
    errors = []
    for step, (a, b) in enumerate(zip(expected.astype(np.float64), actual.astype(np.float64), strict=True)):
        length_a, length_b, distance = (float(np.linalg.norm(v)) for v in (a, b, b - a))
        relative = distance / length_a if length_a else (math.inf if distance else 0.0)
        both = length_a * length_b
        cosine = float((a * b).sum()) / both if both else float(length_a == length_b)
        errors.append(LatentError(field, step, relative, cosine, float(np.abs(b - a).max())))
    return errors


def amplified(expected: RGB, actual: RGB) -> tuple[RGB, int]:
    """The absolute difference times a power of two, the largest that clips nothing, and that factor (1 if equal)."""
    difference = np.abs(actual.astype(np.int16) - expected.astype(np.int16))
    largest = int(difference.max())
    factor = 2 ** int(math.log2(255 / largest)) if largest else 1
    return (difference * factor).astype(np.uint8), factor


def heat(errors: Map) -> RGB:
    """A map [H, W] of errors from 0 (black) to 1 (pale yellow) in magma's colours, as FLIP is usually drawn."""
    coloured: RGB = colormaps["magma"](np.clip(errors, 0, 1), bytes=True)[..., :3]
    return coloured


def side_by_side(pictures: Mapping[str, RGB]) -> RGB:
    """The pictures in a row, each under its title, on white; small ones enlarged by a whole factor to be seen."""
    height, width = (max(picture.shape[axis] for picture in pictures.values()) for axis in (0, 1))
    scale = max(1, SHEET_SIDE // max(height, width))
    width, height = width * scale, height * scale
    sheet = Image.new("RGB", ((width + GAP) * len(pictures) + GAP, height + TITLE + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, picture) in enumerate(pictures.items()):
        left = GAP + i * (width + GAP)
        draw.text((left, GAP // 2), title, fill="black")
        sheet.paste(Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1)), (left, TITLE))
    return np.asarray(sheet)


def read_png(path: Path) -> RGB:
    """An 8-bit RGB picture. Raises OSError, or ValueError for no PNG, alpha, another depth, or a file cut short."""
    data = path.read_bytes()
    if data[:8] != SIGNATURE:
        kind = "JPEG" if data[:3] == b"\xff\xd8\xff" else "something else"
        raise ValueError(f"{path} is not a PNG but {kind}; lossy pictures cannot be judged, save it as PNG")
    if len(data) < 26 or data[24:26] != bytes([8, COLOUR_TYPE_RGB]):
        found = f"bit depth {data[24]} and colour type {data[25]}" if len(data) >= 26 else f"{len(data)} bytes"
        raise ValueError(f"{path} has {found} but must be 8-bit RGB without alpha (8 and {COLOUR_TYPE_RGB})")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            transparent = "transparency" in image.info
            picture = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read to its end ({error}); it is cut short or damaged") from error
    if transparent:
        raise ValueError(f"{path} has a transparent colour but must be RGB without alpha; save it without")
    return picture


def encode_png(picture: RGB) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def write_png(path: Path, picture: RGB) -> None:
    """Write the picture so that `path` is never half of a file."""
    write_atomic(path, encode_png(picture))


def _size(picture: RGB) -> str:
    """Width x height, as people say it."""
    return f"{picture.shape[1]} x {picture.shape[0]}"
