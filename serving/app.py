"""The web application: routes, bodies with a limit, and one shape for every error."""

import base64
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bagel.pipeline import GeneratedImage, ImageRequest
from serving.engine import Engine, Made
from serving.metrics import Metrics
from serving.wishes import RefusedError, Served, read_edit, read_generation

log = logging.getLogger("motbench.serving")

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"


def application(engine: Engine, served: Served, about: dict[str, Any]) -> ASGIApp:
    """The server of one engine. `about` is what `/health` tells beside the state: implementation, device, commit."""
    metrics = Metrics()

    async def generations(request: Request) -> Response:
        return await _answer(GENERATIONS, read_generation(await _json(request), served))

    async def edits(request: Request) -> Response:
        async with _form(request) as form:
            fields, image, name = await _upload(form)
        return await _answer(EDITS, read_edit(fields, image, name, served))

    async def _answer(route: str, requests: list[ImageRequest]) -> Response:
        made = await _made(engine, requests)
        metrics.pictures.labels(route).inc(len(made.pictures))
        metrics.waited.labels(route).observe(made.waited)
        metrics.worked.labels(route).observe(made.worked)
        data = [{"b64_json": _png(p), "seed": r.seed} for p, r in zip(made.pictures, requests, strict=True)]
        timings = {"waited_seconds": made.waited, "worked_seconds": made.worked}
        return JSONResponse({"created": int(time.time()), "data": data, "output_format": "png", "timings": timings})

    async def health(_: Request) -> Response:
        state = {"status": "ok" if engine.open else "closing", "waiting": engine.waiting, "line": engine.line}
        return JSONResponse(state | {"model": served.model} | about, 200 if engine.open else 503)

    async def numbers(_: Request) -> Response:
        metrics.waiting.set(engine.waiting)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        engine.close()

    routes = [
        Route(GENERATIONS, _guarded(generations, GENERATIONS, metrics), methods=["POST"]),
        Route(EDITS, _guarded(edits, EDITS, metrics), methods=["POST"]),
        Route("/health", health),
        Route("/metrics", numbers),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _other})
    return limited(app, served.limits.body)


def limited(app: ASGIApp, most: int) -> ASGIApp:
    """Refuse a body of more than `most` bytes as it comes, whatever its head says, before it fills the memory."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise RefusedError(413, f"the body has more than {most} bytes; send a smaller picture")
            return message

        await app(scope, counted if scope["type"] == "http" else receive, send)

    return wrapped


def _guarded(
    handler: Callable[[Request], Awaitable[Response]], route: str, metrics: Metrics
) -> Callable[[Request], Awaitable[Response]]:
    """Nothing that a request brings about ends the server: every exception becomes a response in the API's shape."""

    async def run(request: Request) -> Response:
        try:
            response = await handler(request)
        except RefusedError as refused:
            response = failed(refused.status, refused.message, refused.param)
        except ClientDisconnect:
            response = failed(400, "the body ended before it was whole")
        except Exception:
            log.exception("a request to %s failed", route)
            response = failed(500, "the server failed at this request; its log says how")
        metrics.responses.labels(route, str(response.status_code)).inc()
        return response

    return run


async def _made(engine: Engine, requests: list[ImageRequest]) -> Made:
    import torch

    try:
        return await engine(requests)
    except ValueError as error:  # the pipeline's own refusal: one line with both values
        raise RefusedError(400, " ".join(str(error).split())) from error
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise RefusedError(503, "this request does not fit the GPU's memory at the moment; ask for less") from error


def failed(status: int, message: str, param: str | None = None) -> JSONResponse:
    """An error as the OpenAI API shapes it."""
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    error = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers)


async def _other(_: Request, error: Exception) -> Response:
    """404 and 405, in the same shape."""
    assert isinstance(error, HTTPException)
    return failed(error.status_code, error.detail)


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "the body is no JSON; send an object with at least a prompt") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """The form of a request; RefusedError if it is none."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RefusedError(415, "the body is no multipart/form-data; send image and prompt as a form")
    try:
        form = await request.form(max_files=2, max_fields=32)
    except HTTPException as error:
        raise RefusedError(400, f"the form cannot be read: {error.detail}") from error
    try:
        yield form
    finally:
        await form.close()


async def _upload(form: FormData) -> tuple[dict[str, str], bytes, str]:
    """(text fields, the picture's bytes, its file name)."""
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    wrong = [name for name, _ in files if name not in ("image", "image[]")]
    if wrong:
        raise RefusedError(400, f"a file named {wrong[0][:40]!r} is sent but only image is read here", wrong[0][:40])
    if len(files) != 1:
        raise RefusedError(400, f"{len(files)} files are sent as image but exactly one is needed", "image")
    texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    fields = dict(texts)
    if len(fields) != len(texts):
        raise RefusedError(400, "a field of the form is given twice; give each once")
    if "image" in fields:
        raise RefusedError(400, "image is a text but must be a file", "image")
    upload = files[0][1]
    return fields, await upload.read(), upload.filename or ""


def _png(made: GeneratedImage) -> str:
    content = io.BytesIO()
    made.image.save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")
