"""`motbench quantise`: a checkpoint again, its experts' linear layers in 8 bits."""

from __future__ import annotations

import json
import typing
from pathlib import Path

import typer

if typing.TYPE_CHECKING:
    from bagel.calibrate import Calibration
    from bagel.pipeline import ImageRequest

Opt = typer.Option

MARGIN = 2.0
FIELDS = {"prompt": str, "image": str, "height": int, "width": int, "steps": int, "seed": int}
"""What a request of a calibration file may say; the rest is `ImageRequest`'s."""


def quantise(
    checkpoint: typing.Annotated[Path, Opt(help="BAGEL folder: *.json, ema.safetensors, ae.safetensors, tokenizer")],
    out: typing.Annotated[Path, Opt(help="a new or an empty folder")],
    kind: typing.Annotated[str, Opt(help="fp8 or int8")],
    calibrate: typing.Annotated[
        Path | None, Opt(metavar="FILE", help="fp8 only: requests (JSON) whose inputs give fixed scales")
    ] = None,
    margin: typing.Annotated[
        float | None, Opt(help="a fixed scale reaches so many times what was seen; 2 unless given")
    ] = None,
    impl: typing.Annotated[str, Opt(help="what calibrates: reference, fused or package.module:OPS")] = "reference",
    device: typing.Annotated[str, Opt(help="where it calibrates: cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="calibrates in float32, bfloat16 or float16")] = "float32",
) -> None:
    """Write a checkpoint again with 8-bit weights and their scales, and quantisation.json, which says from what.

    `generate`, `understand` and `serve` read the result as they read the original.

    FILE is a list of {"prompt", "image", "height", "width", "steps", "seed"}, pictures beside it. The last request is
    held out: it raises no scale, and what it loses by them is told.
    """
    from bagel.quantise import check_target, quantise_checkpoint
    from motbench.implementation import resolve
    from motbench.progress import transferred

    calibration = None
    if calibrate is None and margin is not None:
        raise ValueError(
            f"--margin is {margin} but nothing is calibrated; give --calibrate FILE, or leave --margin out"
        )
    if calibrate is not None:
        if kind != "fp8":
            raise ValueError(f"--kind is {kind} but only fp8 layers have scales of their input; leave --calibrate out")
        check_target(checkpoint, out)
        calibration = _calibrated(
            checkpoint, read_requests(calibrate), MARGIN if margin is None else margin, resolve(impl, device, dtype)
        )
    with transferred(f"quantise {checkpoint}") as told:
        done = quantise_checkpoint(checkpoint, out, kind, told, calibration)  # type: ignore[arg-type]
    before, after = (f"{size / 1e9:.3g} GB" for size in (done.bytes_before, done.bytes_after))
    print(f"wrote {out}: {done.weights} weights in {kind}, {before} of tensors before, {after} after")
    if calibration is not None:
        _tell(calibration)


def read_requests(path: Path) -> list[ImageRequest]:
    """The requests of a calibration file. Raises OSError, or ValueError naming the request that is wrong."""
    from bagel.pipeline import ImageRequest
    from motbench.generate import open_image

    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); write a list of requests") from error
    if not isinstance(given, list):
        raise ValueError(f"{path} holds {type(given).__name__} but must be a list of requests")
    requests = []
    for i, one in enumerate(given):
        if not isinstance(one, dict) or "prompt" not in one:
            raise ValueError(f'{path}: request {i} is {one!r} but must be an object with a "prompt"')
        for name, value in one.items():
            if name not in FIELDS:
                raise ValueError(f"{path}: request {i} has {name!r}; a request has {', '.join(FIELDS)}")
            if type(value) is not FIELDS[name]:
                raise ValueError(f"{path}: {name} of request {i} is {value!r} but must be {FIELDS[name].__name__}")
        image = open_image(path.parent / one["image"]) if "image" in one else None
        try:
            requests.append(ImageRequest(**{**one, "image": image}))
        except ValueError as error:
            raise ValueError(f"{path}: request {i}: {error}") from error
    return requests


def _calibrated(
    checkpoint: Path, requests: list[ImageRequest], margin: float, where: tuple[typing.Any, typing.Any, typing.Any]
) -> Calibration:
    from bagel.calibrate import calibrate
    from bagel.pipeline import BagelPipeline
    from motbench.progress import transferred, watched

    ops, place, precision = where
    with transferred(f"read {checkpoint}") as told:
        pipeline = BagelPipeline.from_checkpoint(checkpoint, ops, place, precision, told=told)
    # The last one is made three times: dense, and in fp8 with either kind of scales.
    updates = sum(request.steps - 1 for request in [*requests, *requests[-1:] * 2])
    with watched("calibrate", {"denoise": updates}) as probe:
        return calibrate(pipeline, requests, margin, probe)


def _tell(found: Calibration) -> None:
    all_of_it = found.clamped_in_all
    print(
        f"fixed scales of inputs reach {found.margin:g} x what {len(found.requests) - 1} requests reached; "
        f"{found.made_by}"
    )
    clamped = f"{all_of_it.beyond} of {all_of_it.values} values clamped ({all_of_it.share:.2g})"
    print(f"held-out request: {clamped}{_most(found)}")
    print(
        f"its latents' relative L2 error beside the dense model: {found.own:.3g} with a scale for each row, "
        f"{found.fixed:.3g} with fixed scales"
    )


def _most(found: Calibration) -> str:
    (index, layer), expert = found.worst
    most = found.clamped[index, layer][expert]
    where = f", most in layers.{index}.{layer}, {('text', 'image')[expert]} expert: "
    return f"{where}{most.beyond} of {most.values} ({most.share:.2g})" if most.beyond else ""
