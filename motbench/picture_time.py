"""`motbench picture-time`: how long does a whole picture of BAGEL at full size take on this GPU?"""

from __future__ import annotations

import typing
from pathlib import Path

import typer

if typing.TYPE_CHECKING:
    from benchmarks.harness.picture_time import PicturePoint

Opt = typer.Option
RESULTS = Path("results/pictures")


def picture_time(
    task: typing.Annotated[
        list[str] | None,
        Opt(metavar="NAME", help="t2i-512, t2i-1024, edit-512, edit-1024; may be repeated; default: the first two"),
    ] = None,
    impl: typing.Annotated[str, Opt(help="fused, reference or package.module:OPS")] = "fused",
    dtype: typing.Annotated[str, Opt(help="bfloat16 or float16")] = "bfloat16",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    layers: typing.Annotated[int, Opt(min=1, help="decoder layers; BAGEL has 28")] = 28,
    steps: typing.Annotated[int, Opt(min=4, help="times in the schedule")] = 50,
    rounds: typing.Annotated[int, Opt(min=1, help="pictures of every candidate, in turn")] = 2,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="all samples, stages and errors")] = None,
) -> None:
    """Measure whole pictures with random weights, fused and graphed, against gather/scatter as the public code does it.

    Not until one step of that size has passed against a truth in float32."""
    import torch

    from bagel.tokenizer import Tokenizer
    from benchmarks.harness import environment, picture_time, synthetic
    from benchmarks.harness.records import write_json
    from motbench.implementation import resolve

    ops, device, precision = resolve(impl, "cuda", dtype, tiles)
    tasks = task or ["t2i-512", "t2i-1024"]
    for one in tasks:
        picture_time.request_of(one, steps)
    options = f"--impl {impl} --dtype {dtype} --layers {layers} --steps {steps} --rounds {rounds}"
    provenance = environment.made_by(f"motbench picture-time {options}" + (f" --tiles {tiles}" if tiles else ""))
    kept = json or RESULTS / f"{provenance.created[:19].replace(':', '')}.json"
    tokenizer = Tokenizer.load(environment.repository_root() / "tests/data/bagel_oracle/checkpoint")
    config = synthetic.with_layers(synthetic.BAGEL_7B, layers)
    model = synthetic.random_bagel(config, ops, tokenizer, device, precision)
    weights_bytes = torch.cuda.memory_allocated()
    print(f"{provenance.environment.gpu}: weights of {layers} layers: {weights_bytes / 2**30:.1f} GiB", flush=True)
    points: dict[str, PicturePoint] = {}
    with torch.no_grad():
        for point in picture_time.measure(model, ops, tasks, steps, rounds):
            points[point.task] = point
            record = picture_time.PictureTimes(provenance, dtype, layers, weights_bytes, list(points.values()))
            write_json(kept, record)
            print(_line(point), flush=True)
    print(f"record: {kept}")


def _line(point: PicturePoint) -> str:
    """`t2i-512, 50 steps: fused 1.9 s | gather/scatter, eager 4.8 s (2.53x), ...`, then the stages."""
    fused, *others = point.samples
    own = point.median(fused)
    told = [f"{name} {point.median(name):.2f} s ({point.median(name) / own:.2f}x)" for name in others]
    stages = [
        f"{name}: " + ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in each.items())
        for name, each in point.stages.items()
    ]
    head = f"{point.task}, {point.steps} steps: {fused} {own:.2f} s, peak {point.peak_bytes / 2**30:.2f} GiB"
    return "\n    ".join([" | ".join([head, *told]), *stages])
