"""Scores a checkpoint on held-out scenes and edits, made by bagel's pipeline and judged by scorer.py."""

import importlib
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from bagel.pipeline import BagelPipeline, Guidance, ImageRequest, TextRequest
from bagel.transforms import to_image, to_pixels
from training.checkpoints import described
from training.edits import Edit, draw_edit
from training.files import write_json
from training.render import picture_of
from training.scorer import EditScore, SceneScore, Share, judge, judge_caption, judge_edit, see
from training.understanding import DESCRIBE
from training.world import Claim, Scene, caption, draw, held_out, parse

SHIFT = 3.0
OFF = Guidance(text_scale=1.0)
TASKS = ("text-to-image", "text-to-image unguided", "edit", "edit unguided", "caption", "autoencoder")
ANSWER_TOKENS = 40


@dataclass(frozen=True)
class EvaluationOptions:
    """count held-out samples per task; steps times in the schedule; size pixels of a square picture.

    text_scale, image_scale  guidance of text-to-image and of editing where it is on; image_scale for editing only
    pictures                 folder for every picture made, or None
    minutes                  of wall clock, or None; what is not made by then is not in the shares, whose n says so
    tasks                    which of TASKS
    dtype, quantise          of the model; quantise: the kind of its linear layers, fp8 or int8, or None
    ops                      the implementation, MODULE:NAME
    """

    count: int = 500
    steps: int = 25
    size: int = 128
    device: str = "cpu"
    processes: int = 1
    pictures: Path | None = None
    text_scale: float = 4.0
    image_scale: float = 1.5
    minutes: float | None = None
    tasks: tuple[str, ...] = TASKS
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    quantise: Literal["fp8", "int8"] | None = None
    ops: str = "reference_impl:OPS"

    @property
    def guidance(self) -> dict[str, Guidance]:
        """By task."""
        return {
            "text-to-image": Guidance(self.text_scale, 1.0, (0.0, 1.0), "global"),
            "edit": Guidance(self.text_scale, self.image_scale, (0.0, 1.0), "text_channel"),
        }


def held_out_scenes(n: int, size: int) -> list[Scene]:
    """n scenes with different captions, none of them trained on; always the same."""
    rng, found = Random("held-out scenes"), dict[str, Scene]()
    while len(found) < n:
        text = caption(scene := draw(rng, size, size))
        if held_out(text):
            found.setdefault(text, scene)
    return list(found.values())


def held_out_edits(n: int, size: int) -> list[Edit]:
    """n different edits, none of them trained on; always the same."""
    rng, found = Random("held-out edits"), dict[str, Edit]()
    while len(found) < n:
        edit = draw_edit(rng, size, size)
        if held_out(edit.key):
            found.setdefault(edit.key, edit)
    return list(found.values())


def evaluate(checkpoint: Path, options: EvaluationOptions, out: Path) -> dict[str, Any]:
    """Run all tasks and write the scores with their intervals and where they come from.

    Raises OSError or ValueError if the checkpoint does not load, or for an implementation or a task that is none.
    """
    start = time.monotonic()
    if unknown := sorted(set(options.tasks) - set(TASKS)):
        raise ValueError(f"task {unknown[0]!r} is not one of {', '.join(TASKS)}")
    pipeline = _loaded(checkpoint, options)  # what is wrong with the folder is said here, once
    known, _ = pipeline.vae_resize.size(options.size, options.size)
    if known != options.size:
        raise ValueError(
            f"{checkpoint} resizes pictures of {options.size} pixels to {known}; score it at --size {known}"
        )
    outcomes: dict[str, list[Any]] = {task: [] for task in options.tasks}
    # Sample by sample, so that a run that is out of time has measured all tasks alike.
    jobs = [(checkpoint, options, task, i) for i in range(options.count) for task in options.tasks]
    for done, (task, outcome) in enumerate(_run(jobs, options), start=1):
        outcomes[task].append(outcome)
        if done % 50 == 0:
            print(f"{done} of {len(jobs)}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        if (
            options.minutes is not None
            and time.monotonic() - start > 60 * options.minutes
            and done >= len(options.tasks)
        ):
            break
    result = described(checkpoint) | {
        "options": asdict(options) | {"pictures": None},
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - start, 1),
        "scores": (scores := {task: summarise(task, found) for task, found in outcomes.items()}),
        "right": {task: [int(_score_of(one).all_right) for one in found] for task, found in outcomes.items()},
    }
    write_json(out, result)
    for task, shares in scores.items():
        for name, share in shares.items():
            print(f"{task:24s} {name:22s} {describe_share(share)}")
    return result


def _score_of(outcome: Any) -> SceneScore | EditScore:
    """Of an edit, whose outcome begins with its kind, or of a scene."""
    found: SceneScore | EditScore = outcome[1] if isinstance(outcome, tuple) else outcome
    return found


def describe_share(share: dict[str, Any]) -> str:
    """ "96.1 % (94.9-97.0, n = 1042)" """
    low, high = share["interval"]
    return f"{100 * share['value']:.1f} % ({100 * low:.1f}-{100 * high:.1f}, n = {share['total']})"


def _run(jobs: list[Any], options: EvaluationOptions) -> Iterator[tuple[str, Any]]:
    if options.processes <= 1:
        yield from (one(job) for job in jobs)
        return
    with multiprocessing.get_context("spawn").Pool(options.processes, _one_thread) as pool:
        yield from pool.imap(one, jobs, chunksize=4)


def _one_thread() -> None:
    torch.set_num_threads(1)


def one(job: tuple[Path, EvaluationOptions, str, int]) -> tuple[str, Any]:
    """Make and judge sample i of a task."""
    checkpoint, options, task, i = job
    pipeline = _loaded(checkpoint, options)
    if task.startswith("edit"):
        return task, _edit(pipeline, options, task, i)
    scene = _scenes(options.count, options.size)[i]
    claim = parse(caption(scene))
    if claim is None:
        raise ValueError(f"caption {caption(scene)!r} cannot be read back; training/world.py contradicts itself")
    size = (options.size, options.size)
    if task == "caption":
        answer = pipeline.understand(TextRequest(DESCRIBE, picture_of(scene), ANSWER_TOKENS))
        return task, judge_caption(parse(answer.text), scene)
    if task == "autoencoder":
        return task, _score(claim, _reconstructed(pipeline, picture_of(scene)), size)
    request = ImageRequest(
        prompt=caption(scene),
        height=options.size,
        width=options.size,
        steps=options.steps,
        seed=i,
        timestep_shift=SHIFT,
        guidance=options.guidance.get(task, OFF),
    )
    picture = pipeline.generate(request).image
    _keep(options, task, i, picture)
    return task, _score(claim, picture, size)


def _score(claim: Claim, picture: Image.Image, size: tuple[int, int]) -> SceneScore:
    return judge(claim, see(picture, claim.word is not None), size)


def _edit(pipeline: BagelPipeline, options: EvaluationOptions, task: str, i: int) -> tuple[str, EditScore]:
    edit = _edits(options.count, options.size)[i]
    before = picture_of(edit.before)
    request = ImageRequest(
        prompt=edit.instruction,
        image=before,
        steps=options.steps,
        seed=i,
        timestep_shift=SHIFT,
        guidance=options.guidance.get(task, OFF),
    )
    after = pipeline.generate(request).image
    _keep(options, task, i, after)
    return edit.kind, judge_edit(edit, before, after)


@torch.no_grad()
def _reconstructed(pipeline: BagelPipeline, picture: Image.Image) -> Image.Image:
    """Through the autoencoder and back: what the transformer could reach at best."""
    autoencoder = pipeline.model.autoencoder
    mean, logvar = autoencoder.posterior(to_pixels(picture).to(pipeline.model.device))
    return to_image(autoencoder.decode(autoencoder.sample(mean, logvar, torch.zeros_like(mean))))


def _keep(options: EvaluationOptions, task: str, i: int, picture: Image.Image) -> None:
    if options.pictures is not None:
        folder = options.pictures / task.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{i:03d}.png")


def summarise(task: str, outcomes: list[Any]) -> dict[str, dict[str, Any]]:
    """Shares with intervals, by name. Raises ValueError if there are no outcomes."""
    if task.startswith("edit"):
        kinds = sorted({kind for kind, _ in outcomes})
        shares = {name: _share([getattr(score, name) for _, score in outcomes]) for name in ("done", "kept")}
        shares["all right"] = _share([score.all_right for _, score in outcomes])
        by_kind = {k: _share([score.all_right for kind, score in outcomes if kind == k]) for k in kinds}
        return shares | {f"all right, {kind}": share for kind, share in by_kind.items()}
    things = sum(score.things for score in outcomes)
    shares = {
        "colour": _as_dict(Share(sum(score.colours for score in outcomes), things)),
        "shape": _as_dict(Share(sum(score.shapes for score in outcomes), things)),
        "background": _share([score.background for score in outcomes]),
        "nothing extra": _share([score.extra == 0 for score in outcomes]),
        "all right": _share([score.all_right for score in outcomes]),
    }
    for name in ("relation", "place"):
        judged = [found for score in outcomes if (found := getattr(score, name)) is not None]
        if judged:
            shares[name] = _share(judged)
    return shares


def _share(outcomes: list[bool]) -> dict[str, Any]:
    return _as_dict(Share(int(np.sum(outcomes)), len(outcomes)))


def _as_dict(share: Share) -> dict[str, Any]:
    return {"right": share.right, "total": share.total, "value": share.value, "interval": list(share.interval)}


def _loaded(checkpoint: Path, options: EvaluationOptions) -> BagelPipeline:
    return load(checkpoint, options.device, options.dtype, options.quantise, options.ops)


@cache
def load(
    checkpoint: Path,
    device: str,
    dtype: str = "float32",
    quantise: Literal["fp8", "int8"] | None = None,
    ops: str = "reference_impl:OPS",
) -> BagelPipeline:
    """The pipeline over an implementation, MODULE:NAME. Raises OSError or ValueError."""
    module, _, name = ops.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"implementation {ops!r} is not to be had ({error}); give MODULE:NAME of a MoTOps") from error
    return BagelPipeline.from_checkpoint(checkpoint, found, device, getattr(torch, dtype), quantise=quantise)


@cache
def _scenes(n: int, size: int) -> list[Scene]:
    return held_out_scenes(n, size)


@cache
def _edits(n: int, size: int) -> list[Edit]:
    return held_out_edits(n, size)
