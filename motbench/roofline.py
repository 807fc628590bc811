"""`motbench roofline`: how far are the fused layers from the card's limits, and from every other way?"""

from __future__ import annotations

import typing
from pathlib import Path

import typer

if typing.TYPE_CHECKING:
    from benchmarks.harness.records import RooflinePoint
    from benchmarks.harness.roofline import Measured

Opt = typer.Option
RESULTS = Path("results/roofline")


def roofline(
    size: typing.Annotated[
        list[str] | None, Opt(metavar="M", help="1026, 4098, 8208; text: 1, 16, 64; may be repeated")
    ] = None,
    layer: typing.Annotated[
        list[str] | None, Opt(metavar="NAME", help="qkv, o, gate_up, down; may be repeated")
    ] = None,
    kind: typing.Annotated[
        list[str] | None, Opt(metavar="KIND", help="experts: dense, fp8 or int8; may be repeated")
    ] = None,
    impl: typing.Annotated[str, Opt(help="fused or package.module:OPS")] = "fused",
    dtype: typing.Annotated[str, Opt(help="bfloat16 or float16")] = "bfloat16",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    rounds: typing.Annotated[int, Opt(min=3, help="interleaved replays of every candidate")] = 15,
    explain: typing.Annotated[
        bool, Opt("--explain", help="split fused / dense into parts, by more measurements")
    ] = False,
    json: typing.Annotated[
        Path | None, Opt(metavar="FILE", help="all samples; default: a new file that the report shows")
    ] = None,
) -> None:
    """Measure BAGEL's routed layers on this GPU against a dense layer, gather/scatter, cuBLAS and the card's limits."""
    from rich.console import Console

    from benchmarks.harness import environment, roofline_told
    from benchmarks.harness import roofline as measuring
    from benchmarks.harness.records import Roofline, write_json
    from benchmarks.harness.shapes import LAYERS

    kinds, layers = kind or ["dense"], layer or list(LAYERS)
    measuring.refuse_unknown(size or [], layers, kinds)
    of = _measured(impl, dtype, tiles, rounds, explain)
    provenance = environment.made_by(_asked(kinds, impl, dtype, rounds, tiles, explain))
    kept = json or RESULTS / f"{provenance.created[:19].replace(':', '')}.json"
    limits = measuring.ceilings(of.dtype, kinds)
    fp8 = "" if limits.fp8 is None else f", {limits.fp8 / 1e12:.0f} Tflop/s in fp8"
    rates = f"{limits.matrix / 1e12:.0f} Tflop/s{fp8}, copy {limits.copy / 1e12:.2f} TB/s"
    print(f"{provenance.environment.gpu}: {rates}")
    points: list[RooflinePoint] = []
    with Console(stderr=True).status("measuring") as status:
        for one in kinds:
            for point in measuring.measure(of, size or list(measuring.DEFAULT_SIZES[one]), layers, limits, one):
                points.append(point)
                print(roofline_told.line(point, limits), flush=True)
                status.update(f"measured {point.name} at M={point.m}")
                write_json(kept, Roofline(provenance, dtype, limits, points))
    print("\n".join((*roofline_told.summary(points), f"record: {kept}")))


def _measured(impl: str, dtype: str, tiles: Path | None, rounds: int, explain: bool) -> Measured:
    """What to measure; of fused, its other accumulation and the rule's tiles too, and the table, if to explain."""
    from benchmarks.harness.impls import FUSED, load_impl
    from benchmarks.harness.roofline import Measured
    from motbench.implementation import resolve

    ops, _, precision = resolve(impl, "cuda", dtype, tiles)
    if impl != FUSED:
        if explain:
            raise ValueError(f"--explain knows the launches of --impl fused only, not of {impl}")
        return Measured(ops, precision, rounds)
    import mot_impl
    from mot_impl.tiles import TileTable

    table = TileTable.load(tiles) if explain else None
    return Measured(ops, precision, rounds, load_impl(impl, tiles, "exact"), mot_impl.fused_ops(TileTable()), table)


def _asked(kinds: list[str], impl: str, dtype: str, rounds: int, tiles: Path | None, explain: bool) -> str:
    """The command line, as a record keeps it."""
    asked = "".join(f" --kind {kind}" for kind in kinds if kinds != ["dense"])
    asked += f" --impl {impl} --dtype {dtype} --rounds {rounds}" + (f" --tiles {tiles}" if tiles else "")
    return f"motbench roofline{asked}" + (" --explain" if explain else "")
