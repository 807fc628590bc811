"""The load generator: requests of the OpenAI images API at a rate and a concurrency, and what comes back judged."""

import asyncio
import base64
import binascii
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
from PIL import Image

Save = Callable[[int, bytes], None]
"""Keep the picture of request i; an OSError is a failure of that request."""


@dataclass(frozen=True)
class Load:
    """How the requests are sent.

    base_url      of the server, without /v1
    concurrency   requests under way at most
    request_rate  mean arrivals per second, spaced exponentially from `seed`; None sends each as soon as there is room
    timeout       seconds per request
    fields        sent with each: size, seed, num_inference_steps, model; the seed is counted up
    """

    base_url: str
    concurrency: int
    request_rate: float | None = None
    timeout: float = 600.0
    seed: int = 0
    fields: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency} but must be at least 1")
        if self.request_rate is not None and not 0 < self.request_rate < float("inf"):
            raise ValueError(
                f"request rate is {self.request_rate} per second but must be positive; leave it out for none"
            )
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout} s but must be positive")


@dataclass(frozen=True)
class Asked:
    """One request: a prompt, and for editing a picture's bytes and name."""

    prompt: str
    image: bytes | None = None
    name: str = "image.png"


@dataclass(frozen=True)
class Answer:
    """What became of one request. Seconds count from the start of the run.

    due      when it arrived; `sent` is later where all slots were taken
    failure  "" for a picture that was decoded and kept; else what was wrong, in one line
    kind     of the failure: refused, failed, timeout, connection, malformed, undecodable, unsaved
    size     (width, height) of the picture in pixels
    """

    index: int
    due: float
    sent: float
    done: float
    kind: str = ""
    failure: str = ""
    status: int | None = None
    size: tuple[int, int] | None = None


class AnswerError(Exception):
    """An answer that is no picture: (kind, one line)."""

    def __init__(self, kind: str, failure: str, status: int | None = None) -> None:
        super().__init__(failure)
        self.kind, self.failure, self.status = kind, failure, status


async def run(load: Load, asked: Sequence[Asked], save: Save, told: Callable[[Answer], None]) -> list[Answer]:
    """Send all of `asked` and return an answer for each, in order; `told` hears of each as it ends."""
    slots = asyncio.Semaphore(load.concurrency)
    limits = httpx2.Limits(max_connections=load.concurrency, max_keepalive_connections=load.concurrency)
    arrivals = _arrivals(load, len(asked))
    async with httpx2.AsyncClient(timeout=load.timeout, limits=limits) as client:
        began = time.perf_counter()

        async def one(index: int) -> Answer:
            if arrivals is not None:
                await asyncio.sleep(arrivals[index] - (time.perf_counter() - began))
            due = time.perf_counter() - began
            async with slots:
                sent = time.perf_counter() - began
                if arrivals is None:
                    due = sent
                found = await _attempt(client, load, index, asked[index], save)
                answer = Answer(index, due, sent, time.perf_counter() - began, **found)
            told(answer)
            return answer

        return list(await asyncio.gather(*(one(i) for i in range(len(asked)))))


async def warm_up(load: Load, asked: Asked, steps: int) -> None:
    """One request of `steps` steps, so that the first measured one finds the model loaded and its kernels compiled.

    A model that makes steps - 1 updates computes nothing at one step, so fewer than 2 are refused.
    Raises ValueError for those and OSError if the server makes no picture.
    """
    if steps < 2:
        raise ValueError(f"warm-up has {steps} steps but needs at least 2: steps - 1 updates are made")
    fields = tuple((dict(load.fields) | {"num_inference_steps": steps}).items())
    warm = Load(load.base_url, 1, None, load.timeout, load.seed, fields)
    async with httpx2.AsyncClient(timeout=load.timeout) as client:
        found = await _attempt(client, warm, 0, asked, lambda *_: None)
    if found.get("failure"):
        raise OSError(f"warm-up at {load.base_url} brought no picture: {found['failure']}")


async def health(base_url: str) -> dict[str, Any]:
    """What the server's `/health` tells of itself; {} of a server that has none."""
    try:
        async with httpx2.AsyncClient(timeout=10) as client:
            told = (await client.get(f"{base_url}/health")).json()
    except (httpx2.HTTPError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _arrivals(load: Load, count: int) -> np.ndarray | None:
    """Seconds at which the requests arrive: a Poisson process whose first arrival is at 0."""
    if load.request_rate is None:
        return None
    gaps = np.random.default_rng(load.seed).exponential(1 / load.request_rate, count)
    return np.cumsum(gaps) - gaps[:1]


async def _attempt(client: httpx2.AsyncClient, load: Load, index: int, asked: Asked, save: Save) -> dict[str, Any]:
    """The fields of an Answer that tell how it went. No exception of a request ends the run."""
    try:
        content, status = await _fetch(client, load, index, asked)
        size = _size_of(content)
        try:
            await asyncio.to_thread(save, index, content)
        except OSError as error:
            raise AnswerError("unsaved", f"the picture cannot be kept: {error}", status) from error
        return {"status": status, "size": size}
    except AnswerError as wrong:
        return {"kind": wrong.kind, "failure": wrong.failure, "status": wrong.status}
    except httpx2.TimeoutException:
        return {"kind": "timeout", "failure": f"no answer within {load.timeout:g} s"}
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return {"kind": "connection", "failure": f"{type(error).__name__}: {' '.join(str(error).split())}"}


async def _fetch(client: httpx2.AsyncClient, load: Load, index: int, asked: Asked) -> tuple[bytes, int]:
    """The bytes that are said to be a picture, and the status."""
    fields: dict[str, Any] = {"prompt": asked.prompt, "n": 1} | dict(load.fields)
    if "seed" in fields:
        fields["seed"] += index
    if asked.image is None:
        response = await client.post(f"{load.base_url}/v1/images/generations", json=fields)
    else:
        response = await client.post(
            f"{load.base_url}/v1/images/edits",
            data={name: str(value) for name, value in fields.items()},
            files={"image": (asked.name, asked.image)},
        )
    status = response.status_code
    if status != 200:
        raise AnswerError("refused" if status < 500 else "failed", f"status {status}: {_message(response)}", status)
    try:
        first = response.json()["data"][0]
        return base64.b64decode(first["b64_json"], validate=True), status
    except (ValueError, KeyError, IndexError, TypeError, binascii.Error) as error:
        shown = " ".join(response.text[:80].split())
        raise AnswerError("malformed", f"the answer holds no data[0].b64_json: {shown}", status) from error


def _message(response: httpx2.Response) -> str:
    try:
        text = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(text.split())[:200]


def _size_of(content: bytes) -> tuple[int, int]:
    """Decode the whole picture: a head alone would pass a truncated one."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return picture.size
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise AnswerError(
            "undecodable", f"the picture of {len(content)} bytes cannot be decoded: {error}", 200
        ) from error
