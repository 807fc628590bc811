"""`motbench understand`: a question, perhaps about a picture, answered in text."""

from __future__ import annotations

import typing
from contextlib import nullcontext
from pathlib import Path

import typer

Opt = typer.Option


def understand(
    checkpoint: typing.Annotated[Path, Opt(help="BAGEL folder: *.json, ema.safetensors, ae.safetensors, tokenizer")],
    prompt: typing.Annotated[str, Opt(help="may be empty")],
    image: typing.Annotated[Path | None, Opt(help="picture to ask about")] = None,
    max_tokens: typing.Annotated[int, Opt(help="longest answer, in passes of the model")] = 512,
    ids: typing.Annotated[bool, Opt("--ids", help="print token ids, separated by spaces, instead of text")] = False,
    impl: typing.Annotated[str, Opt(help="reference, fused or package.module:OPS")] = "reference",
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "float32",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    quantise: typing.Annotated[str | None, Opt(metavar="KIND", help="keep the experts' weights as fp8 or int8")] = None,
    parallel: typing.Annotated[str, Opt(help="what torchrun's ranks divide: tensor or sequence")] = "tensor",
) -> None:
    """Print the answer; the best token is taken each time, so it is the same every time.

    Under torchrun the ranks answer together, and rank 0 prints.
    """
    from bagel.pipeline import BagelPipeline, TextRequest
    from bagel.probe import QUIET
    from motbench.generate import open_image
    from motbench.implementation import kind_named, resolve
    from motbench.progress import transferred, watched
    from motbench.ranks import joined

    ops, place, precision = resolve(impl, device, dtype, tiles)
    kind = kind_named(quantise)
    request = TextRequest(prompt, None if image is None else open_image(image), max_tokens)
    with joined(parallel, place) as (ranks, place):
        with transferred(f"read {checkpoint}") as told:
            pipeline = BagelPipeline.from_checkpoint(checkpoint, ops, place, precision, ranks, told, kind)
        shown = watched("understand", {"decode": max_tokens}) if ranks.rank == 0 else nullcontext(QUIET)
        with shown as probe:
            answer = pipeline.understand(request, probe)
    if ranks.rank == 0:
        print(" ".join(map(str, answer.ids)) if ids else answer.text)
