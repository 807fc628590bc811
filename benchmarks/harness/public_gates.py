"""How other projects decide that two pictures are equal, each rule as it is published, for comparison with ours.

Pictures are [H, W, 3] of uint8. A gate gets both, and what images.compare found (SSIM and PSNR are not computed twice),
and answers whether it would fail the second one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from skimage import color

from benchmarks.harness.images import RGB

Values = Mapping[str, float]
Gate = Callable[[RGB, RGB, Values], bool]

CORNER = 3
"""Side, in pixels, of the slice that diffusers' tests look at: the bottom right corner of the last channel."""


def gates(size: tuple[int, int], seed: int) -> dict[str, Gate]:
    """Name -> gate, for pictures of size (height, width). seed: of the ten probes' places."""
    generator = np.random.default_rng(seed)
    rows, columns = (generator.integers(0, side, 10) for side in size)

    def probes(tolerance: int) -> Gate:
        return lambda a, b, _: bool((_difference(a, b)[rows, columns] > tolerance).any())

    return {
        "ten probe pixels, tolerance 5": probes(5),
        "ten probe pixels, tolerance 10": probes(10),
        "ten probe pixels, tolerance 15": probes(15),
        "SSIM 0.97 and PSNR 30": lambda a, b, v: _dissimilar(v, 0.97, 30),
        "SSIM 0.94 and PSNR 27": lambda a, b, v: _dissimilar(v, 0.94, 27),
        "SSIM 0.95, PSNR 28 and mean 8": lambda a, b, v: _dissimilar(v, 0.95, 28) or _mean(8)(a, b, v),
        "mean under 10": _mean(10),
        "cosine distance 1e-3 (diffusers)": lambda a, b, _: _cosine_distance(a, b) > 1e-3,
        "3x3 slice, 5e-2 (diffusers)": _corner(5e-2),
        "3x3 slice, 1e-2 (diffusers)": _corner(1e-2),
        "RMS 2 (pytest-mpl)": lambda a, b, _: float(np.sqrt(np.square(_difference(a, b), dtype=float).mean())) > 2,
        "1 % of pixels over 0.016 (Blender)": lambda a, b, _: _share(a, b, 0.016) > 0.01,
        "0.02 % of pixels over 0.004, or one over 0.012 (OpenImageIO)": lambda a, b, _: (
            _share(a, b, 0.004) > 0.0002 or _share(a, b, 0.012) > 0
        ),
        "one pixel over CIE76 2.3 (LLVM)": _cie76,
    }


def _difference(a: RGB, b: RGB) -> npt.NDArray[np.int16]:
    return np.abs(b.astype(np.int16) - a.astype(np.int16))


def _share(a: RGB, b: RGB, threshold: float) -> float:
    """Of pixels with a channel that differs by more than `threshold` of the range."""
    return float((_difference(a, b).max(axis=2) > threshold * 255).mean())


def _dissimilar(values: Values, ssim: float, psnr: float) -> bool:
    return values["ssim"] < ssim or values["psnr"] < psnr


def _mean(limit: float) -> Gate:
    return lambda a, b, _: float(_difference(a, b).mean()) > limit


def _cosine_distance(a: RGB, b: RGB) -> float:
    x, y = (picture.astype(np.float64).ravel() for picture in (a, b))
    return 1 - float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _corner(tolerance: float) -> Gate:
    return lambda a, b, _: bool((_difference(a, b)[-CORNER:, -CORNER:, -1] > tolerance * 255).any())


def _cie76(a: RGB, b: RGB, _: Values) -> bool:
    return bool((color.deltaE_cie76(color.rgb2lab(a), color.rgb2lab(b)) > 2.3).any())
