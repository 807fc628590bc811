"""`motbench quantise`: a checkpoint again, its experts' linear layers in 8 bits."""

from __future__ import annotations

import typing
from pathlib import Path

import typer

Opt = typer.Option


def quantise(
    checkpoint: typing.Annotated[Path, Opt(help="BAGEL folder: *.json, ema.safetensors, ae.safetensors, tokenizer")],
    out: typing.Annotated[Path, Opt(help="a new or an empty folder")],
    kind: typing.Annotated[str, Opt(help="fp8 or int8")],
) -> None:
    """Write it with 8-bit weights and their scales, and quantisation.json, which says what it was made from.

    `generate`, `understand` and `serve` read the result as they read the original.
    """
    from bagel.quantise import quantise_checkpoint
    from motbench.progress import transferred

    with transferred(f"quantise {checkpoint}") as told:
        done = quantise_checkpoint(checkpoint, out, kind, told)  # type: ignore[arg-type]
    before, after = (f"{size / 1e9:.3g} GB" for size in (done.bytes_before, done.bytes_after))
    print(f"wrote {out}: {done.weights} weights in {kind}, {before} of tensors before, {after} after")
