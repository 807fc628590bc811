"""`motbench serve`: BAGEL behind the OpenAI images API."""

from __future__ import annotations

import typing
from pathlib import Path

import typer

if typing.TYPE_CHECKING:
    import torch

    from bagel.pipeline import BagelPipeline
    from reference_impl.contract import Kind, MoTOps

Opt = typer.Option


def serve(
    checkpoint: typing.Annotated[
        Path | None, Opt(help="BAGEL folder: *.json, ema.safetensors, ae.safetensors, tokenizer")
    ] = None,
    random_weights: typing.Annotated[
        str | None, Opt(metavar="MODEL", help="bagel-7b or twin instead: its cost, pictures that mean nothing")
    ] = None,
    host: typing.Annotated[str, Opt(help="address to listen at; 0.0.0.0 is everybody's")] = "127.0.0.1",
    port: typing.Annotated[int, Opt(help="0 takes a free one")] = 8000,
    impl: typing.Annotated[str, Opt(help="reference, fused or package.module:OPS")] = "fused",
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cuda",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "bfloat16",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    quantise: typing.Annotated[str | None, Opt(metavar="KIND", help="keep the experts' weights as fp8 or int8")] = None,
    model: typing.Annotated[str | None, Opt(help="its name in the API; the folder's unless given")] = None,
    size: typing.Annotated[str, Opt(help="of a picture for which none is asked: WIDTHxHEIGHT")] = "1024x1024",
    steps: typing.Annotated[int, Opt(help="times in the schedule for which none are asked")] = 50,
    line: typing.Annotated[int, Opt(help="requests that may wait; one more gets 429")] = 32,
    max_side: typing.Annotated[int, Opt(help="longest side of a picture, asked for or sent, in pixels")] = 1024,
    graphs: typing.Annotated[int, Opt(min=0, help="shapes whose buffers and CUDA graphs are kept; 0: none")] = 4,
    max_steps: typing.Annotated[int, Opt(help="most steps of a request")] = 100,
) -> None:
    """Serve /v1/images/generations, /v1/images/edits, /health and /metrics until interrupted."""
    from dataclasses import asdict

    import uvicorn

    from benchmarks.harness.environment import provenance, repository_root
    from motbench.implementation import kind_named, one_thread_on_a_cpu, resolve
    from serving.app import application
    from serving.engine import Engine
    from serving.wishes import Limits, Served

    ops, place, precision = resolve(impl, device, dtype, tiles)
    kind = kind_named(quantise)
    one_thread_on_a_cpu(place)
    width, height = _size(size)
    limits = Limits(side=max_side, steps=max_steps)
    pipeline, name = _pipeline(checkpoint, random_weights, ops, place, precision, kind)
    served = Served(model or name, (height, width), steps, limits)
    pipeline = pipeline.with_graphs(graphs) if graphs else pipeline
    kept = pipeline.model.transformer.layers[0].qkv.kind
    made_by = asdict(provenance(repository_root(), 0, "motbench serve"))
    about = {"impl": ops.name, "device": device, "dtype": dtype, "kind": kept, "provenance": made_by}
    app = application(Engine(pipeline.generate, line), served, about)
    uvicorn.run(app, host=host, port=port, log_level="info", timeout_graceful_shutdown=60)


def _pipeline(
    checkpoint: Path | None,
    random_weights: str | None,
    ops: MoTOps,
    device: torch.device,
    dtype: torch.dtype,
    quantise: Kind | None,
) -> tuple[BagelPipeline, str]:
    """What makes the pictures, and its name. Raises ValueError unless exactly one source of weights is given."""
    from bagel.pipeline import BagelPipeline
    from bagel.tokenizer import Tokenizer
    from benchmarks.harness import synthetic
    from benchmarks.harness.environment import repository_root
    from motbench.progress import transferred

    if checkpoint is not None and random_weights is None:
        with transferred(f"read {checkpoint}") as told:
            loaded = BagelPipeline.from_checkpoint(checkpoint, ops, device, dtype, told=told, quantise=quantise)
        return loaded, checkpoint.resolve().name
    if random_weights is not None and checkpoint is None:
        tokenizer = Tokenizer.load(repository_root() / "tests/data/bagel_oracle/checkpoint")
        config = synthetic.model_named(random_weights)
        drawn = synthetic.random_bagel(config, ops, tokenizer, device, dtype, quantise=quantise)
        return BagelPipeline(drawn), f"random-{random_weights}"
    raise ValueError(f"checkpoint is {checkpoint} and random-weights {random_weights}; give one of the two")


def _size(text: str) -> tuple[int, int]:
    """(width, height) of "512x768". Raises ValueError."""
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"size is {text!r} but must be like 512x768, width x height")
    return int(parts[0]), int(parts[1])
