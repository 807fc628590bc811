"""`motbench roofline`: how far are the fused layers from the card's limits, and from every other way?"""

from __future__ import annotations

import typing
from pathlib import Path

import typer

if typing.TYPE_CHECKING:
    from benchmarks.harness.records import Ceilings, RooflinePoint

Opt = typer.Option
RESULTS = Path("results/roofline")


def roofline(
    size: typing.Annotated[
        list[str] | None, Opt(metavar="M", help="1026, 4098, 8208; text: 1, 16, 64; may be repeated")
    ] = None,
    layer: typing.Annotated[list[str] | None, Opt(help="qkv, o, gate_up, down; may be repeated")] = None,
    impl: typing.Annotated[str, Opt(help="fused or package.module:OPS")] = "fused",
    dtype: typing.Annotated[str, Opt(help="bfloat16 or float16")] = "bfloat16",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    rounds: typing.Annotated[int, Opt(min=3, help="interleaved replays of every candidate")] = 15,
    json: typing.Annotated[
        Path | None, Opt(metavar="FILE", help="all samples; default: a new file that the report shows")
    ] = None,
) -> None:
    """Measure BAGEL's routed layers on this GPU against a dense layer, gather/scatter, cuBLAS and the card's limits."""
    from rich.console import Console

    from benchmarks.harness import environment
    from benchmarks.harness import roofline as measuring
    from benchmarks.harness.records import Roofline, write_json
    from benchmarks.harness.shapes import LAYERS
    from motbench.implementation import resolve

    sizes, layers = size or ["1026", "4098", "8208"], layer or list(LAYERS)
    ops, _, precision = resolve(impl, "cuda", dtype, tiles)
    asked = f"--impl {impl} --dtype {dtype} --rounds {rounds}" + (f" --tiles {tiles}" if tiles else "")
    provenance = environment.made_by(f"motbench roofline {asked}")
    kept = json or RESULTS / f"{provenance.created[:19].replace(':', '')}.json"
    limits = measuring.ceilings(precision)
    print(f"{provenance.environment.gpu}: {limits.matrix / 1e12:.0f} Tflop/s, copy {limits.copy / 1e12:.2f} TB/s")
    points = []
    with Console(stderr=True).status("measuring") as status:
        for point in measuring.measure(ops, sizes, layers, precision, rounds):
            points.append(point)
            print(_line(point, limits), flush=True)
            status.update(f"measured {point.name} at M={point.m}")
            write_json(kept, Roofline(provenance, dtype, limits, points))
    print(f"{_summary(points)}\nrecord: {kept}")


def _line(point: RooflinePoint, limits: Ceilings) -> str:
    """`1026 o: fused 42.7 us, 84 % of the floor | dense 39.2 (1.09) | ...`, in brackets fused over it."""
    fused = point.median("fused")
    others = [
        f"{name} {point.median(name) * 1e6:.1f} ({fused / point.median(name):.3f})"
        for name in point.samples
        if name != "fused"
    ]
    share = f"{point.floor(limits) / fused:.0%} of the floor"
    return f"{point.m} {point.name}: fused {fused * 1e6:.1f} us, {share} | {' | '.join(others)} | {point.tile}"


def _summary(points: list[RooflinePoint]) -> str:
    """The figures that the kernels are held to."""
    from benchmarks.harness import roofline as measuring
    from benchmarks.harness.records import DENSE, GATHER

    layers = [point for point in points if DENSE in point.samples]
    if not layers:
        return "no layer was measured"
    ratios = {f"{p.name} at {p.m}": p.median("fused") / p.median(DENSE) for p in layers}
    worst = max(ratios, key=ratios.__getitem__)
    every = (GATHER, measuring.SORTED, measuring.GROUPED)
    rivals = [name for name in every if all(name in point.samples for point in layers)]
    missing = "".join(f"; {name} was not measured" for name in every if name not in rivals)
    won = [point for point in layers if all(point.median("fused") < point.median(name) for name in rivals)]
    return (
        f"fused / dense: geometric mean {measuring.geometric_mean(list(ratios.values())):.3f}, worst "
        f"{ratios[worst]:.3f} ({worst}); faster than {', '.join(rivals)} at {len(won)} of {len(layers)}{missing}"
    )
