"""Eight public incidents of BAGEL's picture tests: what a rule of ten pixels says of them, and what our gate says.

Of each only the largest deviation of a probe is public, and sometimes the cause. Where the cause is known it is
re-enacted on our own cases, and both gates judge the result; of the rest, nothing but the deviation can be judged.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.harness.fault import Fault, Place, Setting, anywhere
from benchmarks.harness.faults import FAULTS
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.goldens import Plan
from benchmarks.harness.images import RGB
from benchmarks.harness.known_good import Jitter
from benchmarks.harness.selftest import Easel, made
from benchmarks.harness.storing import storing
from benchmarks.harness.trace_runs import Bench
from reference_impl.contract import QKNorm, Rotary, Route

TOLERANCES = (5, 10, 15)
"""Levels of 255 that the probes of those tests were allowed, at one time or another."""

PROBES, PLACEMENTS = 10, 200
"""Pixels that the rule looks at, and how often their places are drawn here: where they stand decides what they see."""

UNKNOWN = "cannot be judged"
REORDERING = "fused kernel's reordering"
ACROSS = "guidance branches attend to each other"


@dataclass(frozen=True)
class Incident:
    """deviations: the largest of the probes, of each run that is known; `over` for one known only to be above 5.

    cause  what it was found to be; replayed: the name in REPLAYS, or nothing
    real   whether it was a bug; None if nobody could say
    """

    cause: str
    deviations: tuple[int, ...]
    real: bool | None
    replayed: str = ""
    over: bool = False

    def says(self, tolerance: int) -> str:
        """What the rule says of every deviation."""
        words = []
        for deviation in self.deviations:
            if self.over and deviation <= tolerance:
                words.append("fails" if deviation == tolerance else UNKNOWN)
            else:
                words.append("fails" if deviation > tolerance else "passes")
        return ", ".join(words)


INCIDENTS = (
    Incident("unknown", (13,), None),
    Incident("unknown", (32,), None),
    Incident("a fused kernel", (12,), None, REORDERING),
    Incident("a rebase; the tolerance was doubled", (6,), None),
    Incident(ACROSS, (11, 70), True, ACROSS),
    Incident("another version", (53,), None),
    Incident("another version", (16,), None),
    Incident("one denoising step more", (5,), True, "one update more", over=True),
)


def _requeued(setting: Setting, place: Place) -> Setting:
    """2 % of the elements of Q and K one unit off, as a fused norm and rotary did."""
    ops, jitter = setting.ops, Jitter(torch.Generator().manual_seed(place.of(2**31)), 0.02)

    def qk_norm_rotary(qkv: Tensor, norm: QKNorm, table: Rotary, route: Route) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ops.qk_norm_rotary(qkv, norm, table, route)
        return jitter(q), jitter(k), v

    return setting.with_transformer(ops=dataclasses.replace(ops, qk_norm_rotary=storing(qk_norm_rotary)))


REPLAYS = (
    FAULTS["one update more"],
    FAULTS[ACROSS],
    Fault(
        REORDERING,
        "2 % of Q and K one unit off: right, and must pass",
        "implementation",
        "picture",
        _requeued,
        anywhere,
    ),
)
"""Known causes; the last is none that a gate may see."""


def is_bug(name: str) -> bool:
    """Whether a gate should see this cause."""
    return name != REORDERING


@dataclass(frozen=True)
class Replayed:
    """One cause on one case. probed: tolerance -> share of placements at which ten probes fail; ours: what we say.

    deviation  the largest of the picture, which the ten probes seldom meet
    """

    name: str
    case: str
    probed: dict[int, float]
    ours: bool | None
    deviation: int


def replay(case: GoldenCase, plan: Plan) -> Iterator[Replayed]:
    """Every known cause that the case can have, against the picture that it should be.

    Raises OSError or ValueError for a case that cannot be read.
    """
    own = Easel.of(Bench(case, plan.device, plan.dtype).load(plan.dtype), case, plan.ops, plan.dtype_name)
    for cause in REPLAYS:
        if not cause.fits(case):
            continue
        found = made(cause.inject(Setting(own.pipeline, case.image_request()), Place(f"{cause.name}/{case.name}")))
        seen, _, _ = own.sees(found, parity=cause.part == "implementation")
        # Beside what the same build makes without the cause: the incidents' pictures were such a build's too.
        before, after = own.reference.picture, found.picture
        if before is None or after is None:
            continue
        probed = {tolerance: failing(before, after, tolerance) for tolerance in TOLERANCES}
        yield Replayed(cause.name, case.name, probed, seen, int(_difference(before, after).max()))


def failing(expected: RGB, actual: RGB, tolerance: int) -> float:
    """At which share of placements one of ten probes is off by more than the tolerance."""
    beyond = _difference(expected, actual) > tolerance
    places = _placements(beyond.shape)
    return float(beyond[places[0], places[1]].any(axis=1).mean())


@functools.cache
def _placements(size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """[2, PLACEMENTS, PROBES] rows and columns."""
    generator = np.random.default_rng(0)
    return np.stack([generator.integers(0, side, (PLACEMENTS, PROBES)) for side in size])


def _difference(a: RGB, b: RGB) -> npt.NDArray[np.int16]:
    """Of each pixel's most different channel."""
    found: npt.NDArray[np.int16] = np.abs(b.astype(np.int16) - a.astype(np.int16)).max(axis=2)
    return found


def markdown(found: Sequence[Replayed]) -> str:
    """Two tables: the incidents, and the causes that were re-enacted."""
    rules = [f"tolerance {tolerance}" for tolerance in TOLERANCES]
    lines = [_row("incident", "largest deviation", "was it a bug", *rules, "our gate"), _rule(7)]
    for one in INCIDENTS:
        figures = ", ".join(f"{'over ' if one.over else ''}{deviation}" for deviation in one.deviations)
        real = {True: "yes", False: "no", None: "nobody knows"}[one.real]
        lines.append(_row(one.cause, figures, real, *(one.says(limit) for limit in TOLERANCES), _ours(one, found)))
    lines += ["", _row("re-enacted", "cases", "deviation", *(f"ten probes, {rule}" for rule in rules), "our gate")]
    lines.append(_rule(7))
    for cause in REPLAYS:
        own = [one for one in found if one.name == cause.name]
        if not own:
            continue
        deviations = sorted(one.deviation for one in own)
        span = f"{deviations[0]} to {deviations[-1]}"
        shares = (f"{np.mean([one.probed[limit] for one in own]):.0%} fail" for limit in TOLERANCES)
        lines.append(_row(f"{cause.name}: {cause.what}", str(len(own)), span, *shares, _fails(own)))
    return "\n".join(lines) + "\n"


def _ours(incident: Incident, found: Sequence[Replayed]) -> str:
    own = [one for one in found if one.name == incident.replayed]
    return f"re-enacted: {_fails(own)}" if own else UNKNOWN


def _fails(own: Sequence[Replayed]) -> str:
    judged = [one for one in own if one.ours is not None]
    return f"fails {sum(bool(one.ours) for one in judged)} of {len(judged)}" if judged else "not measured"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(count: int) -> str:
    return _row(*["---"] * count)
