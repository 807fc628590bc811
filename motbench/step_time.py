"""`motbench step-time`: how long does one denoising step of BAGEL at full size take on this GPU?"""

from __future__ import annotations

import typing
from pathlib import Path

import typer

if typing.TYPE_CHECKING:
    from benchmarks.harness.records import Ceilings
    from benchmarks.harness.step_time import StepPoint
    from reference_impl.contract import Kind

Opt = typer.Option
RESULTS = Path("results/step")


def step_time(
    size: typing.Annotated[
        list[int] | None, Opt(metavar="M", help="1026, 4098 or 8208 rows; may be repeated; default: 1026, 4098")
    ] = None,
    against: typing.Annotated[
        list[str] | None,
        Opt(metavar="WAY", help="dense, gather or sorted, each compiled and graphed; may be repeated; default: all"),
    ] = None,
    quantise: typing.Annotated[
        list[str] | None, Opt(metavar="KIND", help="fp8 or int8: measure its fused step beside; may be repeated")
    ] = None,
    impl: typing.Annotated[str, Opt(help="fused, reference or package.module:OPS")] = "fused",
    dtype: typing.Annotated[str, Opt(help="bfloat16 or float16")] = "bfloat16",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    layers: typing.Annotated[int, Opt(min=1, help="decoder layers; BAGEL has 28")] = 28,
    rounds: typing.Annotated[int, Opt(min=3, help="interleaved rounds of every candidate")] = 9,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="all samples, errors and kernels")] = None,
) -> None:
    """Measure a denoising step with random weights against gather/scatter as it is, and compiled ways in CUDA graphs.

    Not until its velocities have passed against a truth in float32, and a replay against the first call."""
    import torch

    from bagel.tokenizer import Tokenizer
    from benchmarks.harness import environment, roofline, step_time, synthetic
    from benchmarks.harness.records import write_json
    from motbench.implementation import resolve

    asked = against or ["dense", "gather", "sorted"]
    if unknown := sorted(set(asked) - set(step_time.COMPILED.values())):
        raise ValueError(f"way {unknown[0]!r} is not one of {', '.join(step_time.COMPILED.values())}")
    named = [name for name, way in step_time.COMPILED.items() if way in asked]
    sizes = size or [1026, 4098]
    if wrong := [m for m in sizes if m not in step_time.SIZES]:
        raise ValueError(f"size {wrong[0]} is not one of {', '.join(map(str, step_time.SIZES))}")
    kinds = list(dict.fromkeys(quantise or []))
    if wrong_kinds := sorted(set(kinds) - {"fp8", "int8"}):
        raise ValueError(f"kind {wrong_kinds[0]!r} is not one of fp8, int8")
    ops, device, precision = resolve(impl, "cuda", dtype, tiles)
    options = f"--impl {impl} --dtype {dtype} --layers {layers} --rounds {rounds}"
    options += "".join(f" --size {m}" for m in sizes) + "".join(f" --against {way}" for way in asked)
    options += "".join(f" --quantise {kind}" for kind in kinds) + (f" --tiles {tiles}" if tiles else "")
    provenance = environment.made_by(f"motbench step-time {options}")
    kept = json or RESULTS / f"{provenance.created[:19].replace(':', '')}.json"
    limits = roofline.ceilings(precision)
    print(f"{provenance.environment.gpu}: {limits.matrix / 1e12:.0f} Tflop/s, copy {limits.copy / 1e12:.2f} TB/s")
    tokenizer = Tokenizer.load(environment.repository_root() / "tests/data/bagel_oracle/checkpoint")
    config = synthetic.with_layers(synthetic.BAGEL_7B, layers)
    model = synthetic.random_bagel(config, ops, tokenizer, device, precision)
    print(f"weights of {layers} layers: {torch.cuda.memory_allocated() / 2**30:.1f} GiB", flush=True)
    points: dict[int, StepPoint] = {}
    with torch.no_grad():
        others = {kind: synthetic.quantised(model, typing.cast("Kind", kind)) for kind in kinds}
        for point in step_time.measure(model, sizes, rounds, named, others):
            points[point.m] = point
            write_json(kept, step_time.StepTimes(provenance, dtype, layers, limits, list(points.values())))
            print(_line(point, limits), flush=True)
            for kind in point.quantised:
                print(_quantised_line(point, kind), flush=True)
    print(f"record: {kept}")


def _line(point: StepPoint, limits: Ceilings) -> str:
    """`M=1026: fused 20.1 ms, floor 17.3 (86 %), ... | dense 23.1 (0.87)`; in brackets fused over it."""
    fused, floor = point.median("fused"), point.flops / limits.matrix
    others = [
        f"{name} {point.median(name) * 1e3:.2f} ({fused / point.median(name):.3f})"
        for name in point.samples
        if name != "fused"
    ]
    others += [f"{name} failed: {why}" for name, why in point.failed.items()]
    return (
        f"M={point.m}: fused {fused * 1e3:.2f} ms, floor {floor * 1e3:.2f} ({floor / fused:.0%}), "
        f"busy {point.busy / point.span if point.span else float('nan'):.1%}, peak {point.peak_bytes / 2**30:.2f} GiB "
        f"of which weights {point.weights_bytes / 2**30:.2f}, reserved {point.reserved_bytes / 2**30:.2f}, "
        f"error {point.errors['fused']:.2g} (reference {point.errors['reference']:.2g}) | {' | '.join(others)}"
    )


def _quantised_line(point: StepPoint, kind: str) -> str:
    """`  fp8: 14.9 ms, 1.55 times as fast, ...`: against the fused step of the same rounds whose layers are dense."""
    from benchmarks.harness.step_time import FUSED, fused_name

    one, dense, ours = point.quantised[kind], point.median(FUSED), point.median(fused_name(kind))
    return (
        f"  {kind}: {ours * 1e3:.2f} ms, {dense / ours:.3f} times as fast as {point.m} dense rows, busy "
        f"{one.busy / one.span if one.span else float('nan'):.1%}, linear layers {one.linear_bytes / 1e9:.1f} of "
        f"{point.linear_bytes / 1e9:.1f} GB, {one.errors[FUSED]:.2g} from the same codes in float32 (reference "
        f"{one.errors['reference']:.2g}), {one.truth:.2g} from the truth (reference {one.truth_of_reference:.2g}, "
        f"dense {point.errors[FUSED]:.2g})"
    )
