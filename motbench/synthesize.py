"""`motbench synthesize`: a checkpoint folder with seeded random weights, where the published one is not at hand."""

from __future__ import annotations

import typing
from pathlib import Path

import typer

Opt = typer.Option


def synthesize(
    folder: typing.Annotated[Path, typer.Argument(metavar="DIR", help="a new or an empty folder")],
    model: typing.Annotated[str, Opt(help="bagel-7b (29.5 GB) or twin (14 MB)")] = "bagel-7b",
    seed: typing.Annotated[int, Opt(help="of the CPU generator")] = 0,
) -> None:
    """Write a checkpoint in the published format: every name, shape and file, and weights that mean nothing."""
    from benchmarks.harness import synthetic
    from benchmarks.harness.environment import repository_root
    from benchmarks.harness.synthetic_checkpoint import write_checkpoint
    from motbench.progress import transferred

    config = synthetic.model_named(model)
    tokenizer = repository_root() / "tests/data/bagel_oracle/checkpoint"
    done = 0
    with transferred(f"write {folder}") as told:
        for done, total in write_checkpoint(folder, config, tokenizer, seed):
            told(done, total)
    print(f"wrote {folder}: {model}, {done / 1e9:.2f} GB of random weights")
