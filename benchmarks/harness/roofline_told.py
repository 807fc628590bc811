"""A roofline in words: a line per point, and the figures that the kernels are held to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator

from benchmarks.harness.records import (
    COPY,
    DENSE,
    FUSED,
    GATHER,
    Ceilings,
    Explanation,
    RooflinePoint,
)
from benchmarks.harness.roofline import EXACT, GROUPED, RULE, SCALED, SCALED_EXACT, SORTED, UNQUANTISED

RIVALS = (GATHER, SORTED, GROUPED)
"""The other ways that route."""


def line(point: RooflinePoint, limits: Ceilings) -> str:
    """`1026 o: fused 42.7 us, 84 % of the floor | dense 39.2 (1.09) | ...`, in brackets fused over it."""
    fused = point.median(FUSED)
    others = [
        f"{name} {point.median(name) * 1e6:.1f} ({fused / point.median(name):.3f})"
        for name in point.samples
        if name != FUSED
    ]
    share = f"{point.floor(limits) / fused:.0%} of the floor"
    kind = "" if point.kind == "dense" else f" {point.kind}"
    told = f"{point.m} {point.name}{kind}: fused {fused * 1e6:.1f} us, {share} | {' | '.join(others)} | {point.tile}"
    return (
        told
        if point.explained is None
        else f"{told}\n  {explained(point.explained, point.median(point.explained.rival))}"
    )


def explained(found: Explanation, rival: float) -> str:
    """fused / rival - 1 as a sum, each part a share of the rival's `rival` seconds; then what the parts stand on."""
    total = (sum(found.parts.values()) - found.rival_beyond) / rival
    parts = " ".join(f"{seconds / rival:+.1%} {name}" for name, seconds in found.parts.items())
    cycles = "" if found.step_cycles is None else f", {found.step_cycles:.0f} cycles"
    cycles += f" of {found.needed_cycles:.0f}" if cycles and found.needed_cycles is not None else ""
    clocks = "".join(f", {name} at {mhz:.0f} MHz" for name, mhz in found.mhz.items())
    cut = f" cut in {found.pieces}" if found.pieces > 1 else ""
    return (
        f"{total:+.1%} beside {found.rival} = {parts} {-found.rival_beyond / rival:+.1%} {found.rival}'s own | "
        f"{found.tiles} tiles{cut} on {found.blocks} blocks, "
        f"{found.longest_steps} steps of {found.mean_steps:.1f} on average, "
        f"{found.step_seconds * 1e6:.3f} us each{cycles}{clocks}; text weights {found.text_bytes / 1e6:.0f} MB; "
        f"cold {found.cold_seconds / rival:+.1%}"
    )


def summary(points: list[RooflinePoint]) -> list[str]:
    """What was reached, a line per claim: dense experts against other ways, then each kind of quantised ones."""
    dense = [point for point in points if point.kind == "dense" and DENSE in point.samples]
    told = [_against_dense(dense)] if dense else []
    told += [f"fused {said}" for said in _against(dense, DENSE, inverse=True)]
    told += [f"fused {said}, where the tiles differ" for said in _against(points, RULE, inverse=True)]
    for kind in dict.fromkeys(point.kind for point in points if point.kind != "dense"):
        found = [point for point in points if point.kind == kind and UNQUANTISED in point.samples]
        for fused, rival in ((FUSED, UNQUANTISED), (FUSED, SCALED), (EXACT, UNQUANTISED), (EXACT, SCALED_EXACT)):
            told += [f"{kind}, {fused}: {said}" for said in _against(found, rival, fused)]
    passes = [point for point in points if point.name.startswith("quantise") and COPY in point.samples]
    if passes:
        shares = ", ".join(f"{p.name} {p.median(COPY) / p.median(FUSED):.0%}" for p in passes)
        told.append(f"share that a copy of as many bytes takes, M={passes[0].m}: {shares}")
    return told or ["no layer was measured"]


def _against(points: Iterable[RooflinePoint], rival: str, fused: str = FUSED, inverse: bool = False) -> Iterator[str]:
    """`1.72 times as fast as RIVAL (1026: 1.60, 4098: 1.75)`, geometric means; inverse: `fused / RIVAL 0.99 (...)`."""
    found: dict[int, list[float]] = {}
    for point in points:
        if {fused, rival} <= point.samples.keys():
            found.setdefault(point.m, []).append(point.median(rival) / point.median(fused))
    if not found:
        return
    power = -1 if inverse else 1
    every = [ratio for ratios in found.values() for ratio in ratios]
    by_size = ", ".join(f"{m}: {statistics.geometric_mean(ratios) ** power:.3f}" for m, ratios in found.items())
    mean = f"{statistics.geometric_mean(every) ** power:.3f}"
    yield f"{mean} of {rival} ({by_size})" if inverse else f"{mean} times as fast as {rival} ({by_size})"


def _against_dense(layers: list[RooflinePoint]) -> str:
    ratios = {f"{p.name} at {p.m}": p.median(FUSED) / p.median(DENSE) for p in layers}
    worst = max(ratios, key=ratios.__getitem__)
    rivals = [name for name in RIVALS if all(name in point.samples for point in layers)]
    missing = "".join(f"; {name} was not measured" for name in RIVALS if name not in rivals)
    won = [point for point in layers if all(point.median(FUSED) < point.median(name) for name in rivals)]
    return (
        f"fused / dense: geometric mean {statistics.geometric_mean(ratios.values()):.3f}, worst "
        f"{ratios[worst]:.3f} ({worst}); faster than {', '.join(rivals)} at {len(won)} of {len(layers)}{missing}"
    )
