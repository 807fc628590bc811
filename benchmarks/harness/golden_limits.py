"""What each metric may be, and whether it is."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.harness import images
from benchmarks.harness.records import Status

Kind = typing.Literal["parity", "drift"]
"""Against the reference at the same commit, or against the golden."""

KINDS: tuple[Kind, ...] = ("parity", "drift")

JUDGED: dict[bool, tuple[str, ...]] = {
    False: ("absmax", "share_over_0", "ssim_worst_tile", "flip_worst_tile", "latent_relative_l2", "latent_absmax"),
    True: ("p99_9", "mean", "bias", "bias_block", "psnr", "ssim_worst_tile", "flip_worst_tile", "latent_relative_l2"),
}
"""Metrics that calibration sets limits for; the key says whether pictures differ in every pixel, as in half precision
and with quantised layers: the largest difference grows with their number and has no limit.
"""


@dataclass(frozen=True)
class Limits:
    """What each metric may be at most (at least for those in images.AT_LEAST); None is reported and not judged.

    Raises ValueError without any limit, or for one that is negative or not finite.
    """

    absmax: float | None = None
    p99_9: float | None = None
    mean: float | None = None
    share_over_0: float | None = None
    share_over_2: float | None = None
    share_over_8: float | None = None
    bias: float | None = None
    bias_block: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    ssim_worst_tile: float | None = None
    flip_mean: float | None = None
    flip_p99: float | None = None
    flip_worst_tile: float | None = None
    latent_relative_l2: float | None = None
    latent_cosine: float | None = None
    latent_absmax: float | None = None

    def __post_init__(self) -> None:
        if not self.given:
            raise ValueError("no metric has a limit; give at least one, or leave the dtype out")
        for name, limit in self.given.items():
            if not math.isfinite(limit) or limit < 0:
                raise ValueError(f"the limit of {name} is {limit} but must be a finite number, 0 or more")

    @property
    def given(self) -> dict[str, float]:
        """Metric -> limit, of those that are judged."""
        return {name: limit for name, limit in dataclasses.asdict(self).items() if limit is not None}


def judge(
    values: Mapping[str, float], limits: Mapping[str, float] | None, versions: Mapping[str, str]
) -> tuple[Status, str]:
    """Status and reason. Every metric must be a number, and within its limit if it has one; None means no limits.

    versions: metric -> what computed it, or why nothing did.
    """
    if limits is None:
        return "not-measured", "case.json sets no limits for this dtype; docs/golden-images.md says how to find them"
    outside = [name for name, limit in limits.items() if name in values and _outside(name, values[name], limit)]
    if outside:
        words = {name: "under" if name in images.AT_LEAST else "over" for name in outside}
        said = (f"{name} {values[name]:.4g} is {words[name]} its limit {limits[name]:.4g}" for name in outside)
        return "regressed", "; ".join(said)
    missing = [name for name in {**values, **limits} if math.isnan(values.get(name, math.nan))]
    if missing:
        why = sorted({versions.get(name, "not computed") for name in missing})
        return "not-measured", f"no number for {', '.join(missing)}: {'; '.join(why)}"
    return "pass", ""


def _outside(name: str, value: float, limit: float) -> bool:
    return value < limit if name in images.AT_LEAST else value > limit


def judged_metrics(kind: Kind, dtype: str) -> tuple[str, ...]:
    """Metrics that calibration sets limits for, in a precision (precision.py). A golden holds no latents."""
    chosen = JUDGED[dtype != "float32"]
    return tuple(name for name in chosen if kind == "parity" or not name.startswith("latent_"))


def distance(name: str, value: float) -> float:
    """The metric's number as a distance, 0 for equal pictures and rising from there.

    PSNR becomes the RMS error in levels, a similarity its distance from 1; all others are distances already.
    """
    if name == "psnr":
        return 255 * math.pow(10, -value / 20)
    return max(1 - value, 0.0) if name in images.AT_LEAST else value


def of_distance(name: str, value: float) -> float:
    """The inverse of `distance`: the metric's number."""
    if name == "psnr":
        return 20 * math.log10(255 / value) if value else math.inf
    return 1 - value if name in images.AT_LEAST else value


def score(values: Mapping[str, float], limits: Mapping[str, float]) -> float | None:
    """The largest share of its limit that any metric used, both as distances: over 1 is outside.

    None if a limit has no number. Anything at all against a limit of zero is infinite.
    """
    shares = []
    for name, limit in limits.items():
        used, allowed = distance(name, values.get(name, math.nan)), distance(name, limit)
        shares.append(used / allowed if allowed else math.inf if used else 0.0)
    return None if not shares or any(map(math.isnan, shares)) else max(shares)
