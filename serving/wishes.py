"""What a client may ask for: the bodies of the OpenAI images API, read strictly and turned into bagel's requests.

Source: the public reference of `POST /v1/images/generations` and `POST /v1/images/edits`. Our extensions have names
that diffusion servers share: seed, num_inference_steps, guidance_scale, image_guidance_scale, timestep_shift.
"""

import io
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from bagel.pipeline import Guidance, ImageRequest

FORMATS = ("PNG", "JPEG", "WEBP")
"""Of pictures to edit."""

SERVED = {"quality": ("auto",), "background": ("auto", "opaque"), "output_format": ("png",), "moderation": ("auto",)}
"""Fields of the API with the only values that are true here; any other is refused rather than ignored."""

KNOWN = {"model", "prompt", "n", "size", "response_format", "user", "image", "seed", "num_inference_steps"} | {
    "guidance_scale",
    "image_guidance_scale",
    "timestep_shift",
}


class RefusedError(Exception):
    """A request that gets a 4xx or 5xx: status, one line that says what is wrong, and the field it is about."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    body      bytes
    side      pixels of a picture's longer side, asked for or sent
    steps     times in the schedule
    pictures  per request
    prompt    characters
    """

    body: int = 16 * 2**20
    side: int = 1024
    steps: int = 100
    pictures: int = 4
    prompt: int = 4000


@dataclass(frozen=True)
class Served:
    """What the server serves: the model's name, the defaults of a request and its limits.

    size  (height, width) in pixels of a picture for which none is asked
    """

    model: str
    size: tuple[int, int] = (1024, 1024)
    steps: int = 50
    limits: Limits = Limits()


def read_generation(body: Any, served: Served) -> list[ImageRequest]:
    """The pictures asked for by a JSON body of `/v1/images/generations`. Raises RefusedError."""
    if not isinstance(body, dict):
        raise RefusedError(400, f"the body is a JSON {type(body).__name__} but must be an object")
    if "image" in body:
        raise RefusedError(400, "image is given, but pictures are edited at /v1/images/edits", "image")
    _check_fields(body, served)
    height, width = _size(body.get("size", "auto"), served)
    return _requests(body, served, None, height, width)


def read_edit(fields: Mapping[str, Any], image: bytes, filename: str, served: Served) -> list[ImageRequest]:
    """The pictures asked for by a form of `/v1/images/edits`; the picture's own size decides. Raises RefusedError."""
    _check_fields(fields, served)
    if fields.get("size", "auto") != "auto":
        raise RefusedError(
            400, f"size is {_shown(fields['size'])} but an edit has its picture's size; use auto", "size"
        )
    return _requests(fields, served, read_picture(image, filename, served.limits), None, None)


def read_picture(content: bytes, filename: str, limits: Limits) -> Image.Image:
    """A picture to edit, read to the end. The name is never used as a path, so one that looks like one is refused."""
    if re.search(r"[/\\\0]|^\.\.?$", filename):
        raise RefusedError(400, f"the image's file name {_shown(filename)} holds a path; send a plain name", "image")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            if max(picture.size) > limits.side:
                size = f"{picture.width} x {picture.height}"
                raise RefusedError(400, f"the image is {size} but sides are at most {limits.side}; reduce it", "image")
            picture.load()
            return picture
    except Image.DecompressionBombError as error:
        raise RefusedError(400, f"the image is refused: {error}", "image") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        kinds = ", ".join(FORMATS)
        raise RefusedError(
            400, f"the image ({len(content)} bytes) is no whole {kinds} picture; send one", "image"
        ) from error


def _requests(
    fields: Mapping[str, Any], served: Served, image: Image.Image | None, height: int | None, width: int | None
) -> list[ImageRequest]:
    limits = served.limits
    seed = _whole(fields, "seed", secrets.randbits(32), 0, 2**63 - limits.pictures)
    count = _whole(fields, "n", 1, 1, limits.pictures)
    steps = _whole(fields, "num_inference_steps", served.steps, 2, limits.steps)
    guidance = Guidance(
        text_scale=_number(fields, "guidance_scale", 4.0, 0, 100),
        image_scale=_number(fields, "image_guidance_scale", 1.0 if image is None else 2.0, 0, 100),
    )
    shift = _number(fields, "timestep_shift", 3.0, 0.01, 100)
    prompt = _prompt(fields, limits)
    return [
        ImageRequest(
            prompt=prompt,
            image=image,
            height=height,
            width=width,
            steps=steps,
            seed=seed + i,
            timestep_shift=shift,
            guidance=guidance,
        )
        for i in range(count)
    ]


def _check_fields(fields: Mapping[str, Any], served: Served) -> None:
    unknown = sorted(set(fields) - KNOWN - set(SERVED))
    if unknown:
        raise RefusedError(400, f"{_shown(unknown[0])} is not a field of this server; leave it out", unknown[0][:40])
    for name, values in SERVED.items():
        if fields.get(name, values[0]) not in values:
            found = _shown(fields[name])
            raise RefusedError(400, f"{name} is {found} but only {' or '.join(values)} is served", name)
    if fields.get("model", served.model) != served.model:
        raise RefusedError(404, f"model {_shown(fields['model'])} is not served here; {served.model} is", "model")
    if fields.get("response_format", "b64_json") != "b64_json":
        found = _shown(fields["response_format"])
        raise RefusedError(
            400, f"response_format is {found} but nothing is stored here; use b64_json", "response_format"
        )


def _prompt(fields: Mapping[str, Any], limits: Limits) -> str:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str):
        raise RefusedError(400, f"prompt is {_shown(prompt)} but must be a text", "prompt")
    if len(prompt) > limits.prompt:
        raise RefusedError(400, f"prompt has {len(prompt)} characters but at most {limits.prompt} are served", "prompt")
    if re.search(r"[\ud800-\udfff]", prompt):
        raise RefusedError(
            400, "prompt holds half of a surrogate pair, which is no character; send whole ones", "prompt"
        )
    return prompt


def _size(value: Any, served: Served) -> tuple[int, int]:
    """(height, width) of "auto" or "WIDTHxHEIGHT"."""
    if value == "auto":
        return served.size
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", value, re.ASCII) if isinstance(value, str) else None
    if found is None:
        raise RefusedError(400, f"size is {_shown(value)} but must be auto or like 512x768 (width x height)", "size")
    width, height = int(found[1]), int(found[2])
    if max(width, height) > served.limits.side:
        raise RefusedError(400, f"size is {width}x{height} but sides are at most {served.limits.side}", "size")
    return height, width


def _whole(fields: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """An integer, from JSON or from a form's text."""
    value = fields.get(name, default)
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,20}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RefusedError(400, f"{name} is {_shown(value)} but must be a whole number in {low}..{high}", name)
    return value


def _number(fields: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = fields.get(name, default)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RefusedError(400, f"{name} is {_shown(fields.get(name))} but must be a number in {low}..{high}", name)
    return float(value)


def _shown(value: Any) -> str:
    """A client's own value in a message: short, and on one line whatever it holds."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
