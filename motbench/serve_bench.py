"""`motbench serve-bench`: drive any server of the OpenAI images API and say how long its pictures take."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

if typing.TYPE_CHECKING:
    from serving.load import Answer, Asked

Opt = typer.Option


def serve_bench(
    base_url: typing.Annotated[str, Opt(help="of the server, without /v1")],
    prompts: typing.Annotated[Path, Opt(metavar="FILE", help="a prompt per line, or JSON lines with prompt and image")],
    num_prompts: typing.Annotated[int, Opt(help="requests to send; the file is read again from its start if short")],
    task: typing.Annotated[str, Opt(help="t2i or i2i")] = "t2i",
    concurrency: typing.Annotated[int, Opt(help="requests under way at most")] = 1,
    request_rate: typing.Annotated[
        float | None, Opt(help="mean arrivals per second; none: as soon as there is room")
    ] = None,
    warmup_steps: typing.Annotated[
        int, Opt(help="steps of the request before the first measured one; 0 sends none")
    ] = 2,
    save_dir: typing.Annotated[Path | None, Opt(metavar="DIR", help="keep the pictures, as 00000.png and on")] = None,
    size: typing.Annotated[str | None, Opt(help="WIDTHxHEIGHT, sent with each t2i request")] = None,
    steps: typing.Annotated[int | None, Opt(help="num_inference_steps, sent with each")] = None,
    seed: typing.Annotated[int, Opt(help="of the arrivals and, counted up, of the pictures")] = 0,
    model: typing.Annotated[str | None, Opt(help="its name in the API, sent with each")] = None,
    timeout: typing.Annotated[float, Opt(help="seconds per request")] = 600.0,
    out: typing.Annotated[Path, Opt(metavar="FILE", help="JSON: every request, figures, provenance")] = Path(
        "results/serving/serve-bench.json"
    ),
) -> None:
    """Latency, throughput and failures of a server; a picture that cannot be decoded or kept is a failure.

    Exit code 0 if every request brought a picture, 1 if some did, 4 if none did.
    """
    import asyncio
    from dataclasses import asdict

    from benchmarks.harness.environment import provenance, repository_root
    from benchmarks.harness.records import write_json
    from motbench.exits import Exit
    from serving.figures import summary
    from serving.load import Load, health, run, warm_up

    if task not in ("t2i", "i2i"):
        raise ValueError(f"task is {task!r} but must be t2i or i2i")
    if num_prompts < 1:
        raise ValueError(f"num-prompts is {num_prompts} but must be at least 1")
    if task == "i2i" and size is not None:
        raise ValueError(f"size {size} cannot be given with i2i, where the picture's own size decides; leave it out")
    asked = _read(prompts, task, num_prompts)
    fields = {"size": size, "num_inference_steps": steps, "seed": seed, "model": model}
    given = tuple((name, value) for name, value in fields.items() if value is not None)
    load = Load(base_url.rstrip("/").removesuffix("/v1"), concurrency, request_rate, timeout, seed, given)
    save = _saver(save_dir)

    if warmup_steps:
        asyncio.run(warm_up(load, asked[0], warmup_steps))
    server = asyncio.run(health(load.base_url))
    with _bar(num_prompts) as told:
        answers = asyncio.run(run(load, asked, save, told))
    figures = summary(answers)
    record = {
        "task": task,
        "load": asdict(load) | {"fields": dict(given)},
        "warmup_steps": warmup_steps,
        "prompts": str(prompts),
        "server": server,
        "client": asdict(provenance(repository_root(), seed, "motbench serve-bench")),
        "summary": figures,
        "requests": [asdict(answer) for answer in answers],
    }
    write_json(out, record)
    _show(figures, answers, out)
    if figures["failures"]:
        raise SystemExit(Exit.REGRESSED if figures["pictures"] else Exit.NOT_MEASURED)


def _read(path: Path, task: str, count: int) -> list[Asked]:
    """`count` requests from the file's lines, in order and over again. An image's path counts from its folder."""
    from serving.load import Asked

    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); write it again") from error
    if not lines:
        raise ValueError(f"{path} holds no prompt; give one per line")
    found = []
    for number, line in enumerate(lines[:count], 1):
        prompt, image = _line(path, number, line)
        if (image is None) != (task == "t2i"):
            has = "no image" if image is None else f"image {image}"
            raise ValueError(
                f"{path} line {number} has {has} but the task is {task}; give JSON with an image for i2i only"
            )
        content = None if image is None else (path.parent / image).read_bytes()
        found.append(Asked(prompt, content, "image.png" if image is None else Path(image).name))
    return [found[i % len(found)] for i in range(count)]


def _line(path: Path, number: int, line: str) -> tuple[str, str | None]:
    """(prompt, image) of a line: JSON if it starts with a brace, else the prompt itself."""
    if not line.lstrip().startswith("{"):
        return line, None
    try:
        value = json.loads(line)
        prompt, image = value["prompt"], value.get("image")
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} line {number} is no JSON object with a prompt ({error}); correct it") from error
    if not isinstance(prompt, str) or not isinstance(image, str | None):
        raise ValueError(f"{path} line {number}: prompt and image must be texts but one is not; correct it")
    return prompt, image


def _saver(folder: Path | None) -> Callable[[int, bytes], None]:
    """Names are the requests' own numbers: nothing that a server or a prompt says becomes a path."""
    from benchmarks.harness.records import write_atomic

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)

    def save(index: int, content: bytes) -> None:
        if folder is not None:
            write_atomic(folder / f"{index:05d}.png", content)

    return save


@contextmanager
def _bar(total: int) -> Iterator[Callable[[Answer], None]]:
    """The function which hears of each answer, and moves a bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("serve-bench", total=total)
        yield lambda _: progress.advance(bar)


def _show(figures: dict[str, typing.Any], answers: list[Answer], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    def text(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.3g}"

    table = Table("seconds", "mean", "median", "p90", "p99", "max", box=None)
    for name in ("latency", "service"):
        spread = figures[f"{name}_seconds"]
        table.add_row(name, *(text(spread[key]) for key in ("mean", "median", "p90", "p99", "max")))
    console = Console(highlight=False)
    console.print(table)
    rate = text(figures["pictures_per_second"])
    failed = figures["requests"] - figures["pictures"]
    console.print(
        f"{figures['pictures']} of {figures['requests']} requests brought a picture, {rate} a second, {failed} failed"
    )
    for kind, number in figures["failures"].items():
        first = next(answer for answer in answers if answer.kind == kind)
        console.print(f"  {number} {kind}: {first.failure}", markup=False)
    console.print(f"written to {out}", markup=False)
