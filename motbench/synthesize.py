"""`motbench synthesize`: a checkpoint folder with seeded random weights, where the published one is not at hand."""

from __future__ import annotations

import typing
from pathlib import Path

import typer

Opt = typer.Option
MODELS = ("bagel-7b", "twin")


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

    configs = dict(zip(MODELS, (synthetic.BAGEL_7B, synthetic.TWIN), strict=True))
    if model not in configs:
        raise ValueError(f"model {model!r} is unknown; use one of {', '.join(MODELS)}")
    tokenizer = repository_root() / "tests/data/bagel_oracle/checkpoint"
    done = 0
    with transferred(f"write {folder}") as told:
        for done, total in write_checkpoint(folder, configs[model], tokenizer, seed):
            told(done, total)
    print(f"wrote {folder}: {model}, {done / 1e9:.2f} GB of random weights")
