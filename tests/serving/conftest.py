"""A real server in a process of its own, and a real one with every kind of bad answer."""

import asyncio
import base64
import io
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests/data/bagel_oracle/checkpoint"


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[str]:
    """Base URL of `motbench serve` on the tiny checkpoint: sides up to 64 pixels, bodies up to the default."""
    with _served(tmp_path_factory, "--checkpoint", str(CHECKPOINT)) as url:
        yield url


@pytest.fixture(scope="session")
def random_server(tmp_path_factory) -> Iterator[str]:
    """Base URL of the same with the small twin's random weights, in int8."""
    with _served(tmp_path_factory, "--random-weights", "twin", "--quantise", "int8") as url:
        yield url


@contextmanager
def _served(tmp_path_factory, *weights: str) -> Iterator[str]:
    options = (
        "--impl reference --device cpu --dtype float32 --size 64x64 --steps 3 --port 0 --max-side 64 --max-steps 8"
    )
    command = [sys.executable, "-P", "-m", "motbench", "serve", *weights, *options.split()]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
    try:
        yield _url(process, log)
    finally:
        process.terminate()
        process.wait(60)


def _url(process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"running on (http://[\d.:]+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text()}")


@pytest.fixture(scope="session")
def bad_server() -> Iterator[str]:
    """Base URL of a server whose answer to a prompt is what the prompt names."""
    config = uvicorn.Config(Starlette(routes=[Route("/v1/images/generations", _bad, methods=["POST"])]), port=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


async def _bad(request):
    wanted = (await request.json())["prompt"]
    if wanted == "slow":
        await asyncio.sleep(2)
    answers = {
        "refused": JSONResponse({"error": {"message": "too large"}}, 400),
        "failed": PlainTextResponse("boom", 500),
        "malformed": JSONResponse({"data": []}),
        "no json": PlainTextResponse("hello"),
        "no base64": _picture("%%"),
        "truncated": _picture(base64.b64encode(PNG[: len(PNG) // 2]).decode()),
    }
    return answers.get(wanted) or _picture(base64.b64encode(PNG).decode())


def _picture(content: str) -> JSONResponse:
    return JSONResponse({"data": [{"b64_json": content}]})


def _png() -> bytes:
    content = io.BytesIO()
    Image.effect_noise((32, 32), 50).save(content, format="PNG")
    return content.getvalue()


PNG = _png()
