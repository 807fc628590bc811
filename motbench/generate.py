"""`motbench generate`: a picture from text, or from a picture and text."""

from __future__ import annotations

import io
import os
import time
import typing
from contextlib import nullcontext
from pathlib import Path

import typer

if typing.TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from bagel.pipeline import GeneratedImage

Opt = typer.Option


def generate(
    checkpoint: typing.Annotated[Path, Opt(help="BAGEL folder: *.json, ema.safetensors, ae.safetensors, tokenizer")],
    prompt: typing.Annotated[str, Opt(help="may be empty")],
    out: typing.Annotated[Path, Opt(help="PNG to write")],
    image: typing.Annotated[Path | None, Opt(help="picture to edit; its resized size is the result's")] = None,
    think: typing.Annotated[bool, Opt("--think", help="let the model write a plan first")] = False,
    max_think_tokens: typing.Annotated[int, Opt(help="longest plan")] = 1000,
    height: typing.Annotated[int | None, Opt(help="pixels, a multiple of 16; not with --image")] = None,
    width: typing.Annotated[int | None, Opt(help="pixels, a multiple of 16; not with --image")] = None,
    steps: typing.Annotated[int, Opt(help="times in the schedule, at least 2; updates are one fewer")] = 50,
    seed: typing.Annotated[int, Opt(help="of the CPU noise generator; the same on every device")] = 0,
    timestep_shift: typing.Annotated[float, Opt(help="more than 1 spends more steps on noisy times")] = 3.0,
    cfg_text_scale: typing.Annotated[float, Opt(help="guidance away from no text; 1 is off")] = 4.0,
    cfg_img_scale: typing.Annotated[float, Opt(help="guidance away from no image; 1 is off")] = 1.0,
    cfg_interval: typing.Annotated[tuple[float, float], Opt(help="times at which guidance is on")] = (0.4, 1.0),
    cfg_renorm_type: typing.Annotated[str, Opt(help="global, channel or text_channel")] = "global",
    cfg_renorm_min: typing.Annotated[float, Opt(help="least factor of renormalisation, 0..1")] = 0.0,
    impl: typing.Annotated[str, Opt(help="reference, fused or package.module:OPS")] = "reference",
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "float32",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    quantise: typing.Annotated[str | None, Opt(metavar="KIND", help="keep the experts' weights as fp8 or int8")] = None,
    parallel: typing.Annotated[str, Opt(help="what torchrun's ranks divide: tensor or sequence")] = "tensor",
    graph: typing.Annotated[bool, Opt(help="on one GPU, replay updates as a CUDA graph")] = True,
    init_noise: typing.Annotated[Path | None, Opt(help='safetensors with "init_noise", instead of the seed\'s')] = None,
    trace: typing.Annotated[Path | None, Opt(help="safetensors to write: x_t, v_t, final_latents, decoded_raw")] = None,
) -> None:
    """Make a picture and write it, and the trace if asked for, only when all of it is there.

    Under torchrun the ranks make one picture together, and rank 0 writes it.
    """
    from bagel.pipeline import BagelPipeline, Guidance, ImageRequest
    from bagel.probe import QUIET
    from motbench.implementation import kind_named, resolve
    from motbench.progress import transferred, watched
    from motbench.ranks import joined

    check_target(out, ".png")
    if trace is not None:
        check_target(trace, ".safetensors")
    ops, place, precision = resolve(impl, device, dtype, tiles)
    kind = kind_named(quantise)
    request = ImageRequest(
        prompt=prompt,
        image=None if image is None else open_image(image),
        height=height,
        width=width,
        steps=steps,
        seed=seed,
        think=think,
        timestep_shift=timestep_shift,
        guidance=Guidance(cfg_text_scale, cfg_img_scale, cfg_interval, cfg_renorm_type, cfg_renorm_min),  # type: ignore[arg-type]
        init_noise=None if init_noise is None else _read_noise(init_noise),
        max_think_tokens=max_think_tokens,
    )
    start = time.perf_counter()
    with joined(parallel, place) as (ranks, place):
        with transferred(f"read {checkpoint}") as told:
            pipeline = BagelPipeline.from_checkpoint(checkpoint, ops, place, precision, ranks, told, kind)
        if graph and ranks.size == 1:
            pipeline = pipeline.with_graphs(1)
        shown = watched("generate", {"denoise": steps - 1}) if ranks.rank == 0 else nullcontext(QUIET)
        with shown as probe:
            result = pipeline.generate(request, probe)
    if ranks.rank > 0:
        return
    _write(result, out, trace)
    if result.text is not None:
        print(result.text)
    size, seconds = " x ".join(map(str, result.image.size)), time.perf_counter() - start
    where = device if ranks.size == 1 else f"{ranks.size} ranks of {device}, {ranks.mode} parallel"
    kept = pipeline.model.transformer.layers[0].qkv.kind
    experts = "" if kept == "dense" else f" and {kept}"
    updates = "1 update" if steps == 2 else f"{steps - 1} updates"
    print(f"wrote {out}: {size}, {updates}, {ops.name} {dtype}{experts} on {where}, {seconds:.1f} s")


def check_target(path: Path, suffix: str) -> None:
    """Refuse a file that could not be written in the end, before anything is computed."""
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path} does not end with {suffix}, and nothing else is written; rename it")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    parent = next(folder for folder in path.resolve().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written: {parent} is no folder that this user may write to")


def open_image(path: Path) -> Image.Image:
    """A picture in any format that Pillow opens, read to the end. Raises OSError or ValueError naming the file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"input image {path} does not exist") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"input image {path} cannot be read ({error}); give a picture that Pillow opens") from error


def _read_noise(path: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}); write it again") from error
    if "init_noise" not in tensors:
        raise ValueError(
            f'{path} holds {", ".join(sorted(tensors))} but not "init_noise"; store the noise by that name'
        )
    noise: Tensor = tensors["init_noise"]
    return noise


def _write(result: GeneratedImage, out: Path, trace: Path | None) -> None:
    from safetensors.torch import save

    from benchmarks.harness.records import write_together

    png = io.BytesIO()
    result.image.save(png, format="PNG")
    files = {out: png.getvalue()}
    if trace is not None:
        names = ("x_t", "v_t", "final_latents", "decoded_raw")
        files[trace] = save({name: getattr(result, name).contiguous() for name in names})
    write_together(files)
