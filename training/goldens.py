"""The golden cases of the small model, as definitions: what each asks, and what it exercises that no other does.

`python -m training goldens` writes case.json and, for edits and questions, input.png of each. Every prompt, edit and
picture is held out (training/world.py), and none is among the 500 that `evaluate` scores.
"""

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from bagel.sampler import Guidance
from training.edits import Edit
from training.evaluate import held_out_edits, held_out_scenes
from training.files import write_bytes
from training.render import picture_of
from training.understanding import DESCRIBE
from training.world import Scene, caption

CHECKPOINT = "golden_images/checkpoint"
SEARCHED = 700
"""Held-out scenes and edits among which the definitions' pictures are looked up by what they show."""
SCORED = 500
SIDE = 128
OFF = Guidance(text_scale=1.0)
USUAL = Guidance(4.0, 1.0, (0.4, 1.0), "global")
ALWAYS = (0.0, 1.0)


@dataclass(frozen=True)
class Drawn:
    """Text-to-image. `steps` counts times, so updates are one fewer; interpreter: cheap enough for it when fused."""

    name: str
    exercises: str
    prompt: str
    guidance: Guidance = USUAL
    size: tuple[int, int] = (SIDE, SIDE)
    steps: int = 17
    shift: float = 3.0
    seed: int = 1
    interpreter: bool = False


@dataclass(frozen=True)
class Edited:
    """Image-to-image: the instruction, and the caption of the picture before it; `side` pixels of that picture."""

    name: str
    exercises: str
    before: str
    instruction: str
    guidance: Guidance = field(default_factory=lambda: Guidance(4.0, 1.5, ALWAYS, "text_channel"))
    side: int = SIDE
    steps: int = 17
    shift: float = 3.0
    seed: int = 1
    interpreter: bool = False


@dataclass(frozen=True)
class Question:
    """Understanding: a question about the picture with that caption."""

    name: str
    exercises: str
    shown: str
    question: str
    tokens: int = 40


Definition = Drawn | Edited | Question
T = TypeVar("T")

DEFINITIONS: tuple[Definition, ...] = (
    Drawn(
        "t2i-usual",
        "the usual settings: text guidance in an interval, global renormalisation, shift 3",
        "a purple triangle above a black cross on a cyan background",
    ),
    Drawn(
        "t2i-unguided",
        "no guidance, so one branch only",
        "a green circle to the right of a large blue cross on a yellow background",
        OFF,
    ),
    Drawn(
        "t2i-throughout",
        "text guidance at every update; texture",
        "an orange star to the left of a black star on a blue background",
        Guidance(4.0, 1.0, ALWAYS, "global"),
        seed=2,
    ),
    Drawn(
        "t2i-channel",
        "strong text guidance with renormalisation per token",
        "a large white triangle above a cyan square on a yellow gradient background",
        Guidance(7.0, 1.0, ALWAYS, "channel"),
        seed=3,
    ),
    Drawn(
        "t2i-text-channel",
        "renormalisation per token of text guidance, by half at least",
        "a red square above a yellow circle on a green checkered background",
        Guidance(5.0, 1.0, ALWAYS, "text_channel", 0.5),
        seed=4,
    ),
    Drawn(
        "t2i-even-times",
        "shift 1: as many updates at low noise as at high",
        "a large yellow star in the centre on a cyan dotted background",
        Guidance(4.0, 1.0, (0.2, 0.8), "global"),
        shift=1.0,
        seed=5,
    ),
    Drawn(
        "t2i-few-updates",
        "4 updates, short enough for the interpreter",
        "a red square in the centre on a purple background",
        Guidance(3.0, 1.0, (0.5, 1.0), "global"),
        steps=5,
        seed=6,
        interpreter=True,
    ),
    Drawn(
        "t2i-many-updates",
        "49 updates: errors have time to grow",
        'a blue ring to the right of a yellow diamond on a red gradient background with the word "SUN"',
        steps=50,
        seed=7,
    ),
    Drawn(
        "t2i-wide",
        "wider than high",
        "a white circle on the right on a purple background",
        size=(160, 112),
        seed=8,
    ),
    Drawn(
        "t2i-tall",
        "higher than wide",
        "a small purple star below a small blue square on an orange striped background",
        size=(112, 160),
        seed=9,
    ),
    Drawn(
        "t2i-long-prompt",
        "as long a prompt as the model knows",
        'a black ring, an orange star and a red diamond from left to right on a white background with the word "DOG"',
        seed=10,
    ),
    Edited(
        "img2img-usual",
        "the usual settings of an edit: text and image guidance, renormalised between the two",
        "a purple circle to the right of a white diamond on a yellow gradient background",
        "make the circle blue",
    ),
    Edited(
        "img2img-unguided",
        "no guidance",
        "a green triangle above a red square on a white background",
        "turn the square into a circle",
        OFF,
    ),
    Edited(
        "img2img-global",
        "text and image guidance, renormalised together",
        "a black square above an orange cross on a blue background",
        "remove the cross",
        Guidance(4.0, 2.0, ALWAYS, "global"),
        seed=2,
    ),
    Edited(
        "img2img-channel",
        "text and image guidance, renormalised together, per token",
        "a yellow cross in the centre on a purple background",
        "add a small yellow triangle on the left",
        Guidance(3.0, 1.5, ALWAYS, "channel"),
        seed=3,
    ),
    Edited(
        "img2img-text-only",
        "text guidance without image guidance",
        "an orange ring to the right of a yellow ring on a purple background",
        "swap the colours",
        Guidance(4.0, 1.0, ALWAYS, "global"),
        seed=4,
    ),
    Edited(
        "img2img-interval",
        "guidance in an interval",
        "an orange square to the left of a yellow triangle on a red background",
        "make the background blue",
        Guidance(4.0, 1.5, (0.3, 0.9), "text_channel"),
        seed=5,
    ),
    Edited(
        "img2img-even-times",
        "shift 1",
        "a white diamond at the bottom on a yellow background",
        "make the diamond green",
        shift=1.0,
        seed=6,
    ),
    Edited(
        "img2img-few-updates",
        "4 updates, short enough for the interpreter; a larger input, reduced to size",
        "a large cyan square in the centre on a red gradient background",
        "turn the square into a ring",
        side=192,
        steps=5,
        seed=7,
        interpreter=True,
    ),
    Edited(
        "img2img-many-updates",
        "49 updates; a smaller input, enlarged to size",
        "a red triangle above a large white ring on a purple checkered background",
        "make the ring yellow",
        side=96,
        steps=50,
        seed=8,
    ),
    Question(
        "understand-caption",
        "the eye and greedy text, a sentence long",
        "a small white circle to the right of a large black cross on a cyan gradient background",
        DESCRIBE,
    ),
    Question(
        "understand-colour",
        "an answer of one word, which only the picture gives",
        'a blue triangle to the left of a large blue ring on a white background with the word "ART"',
        "what colour is the ring?",
    ),
    Question(
        "understand-count",
        "counting",
        "a cyan ring, a purple square and a white ring from left to right on an orange gradient background",
        "how many shapes are there?",
    ),
)


def write_cases(out: Path) -> list[str]:
    """Write every definition below `out` and return their names; limits and provenance that lie there stay.

    Raises ValueError for a picture that is not among the held-out ones.
    """
    for one in DEFINITIONS:
        path = out / one.name / "case.json"
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        limits: dict[str, Any] = {} if isinstance(one, Question) else {"limits": {"parity": {}, "drift": {}}}
        facts = {
            "format": 1,
            "exercises": one.exercises,
            "interpreter": not isinstance(one, Question) and one.interpreter,
            "request": request(one),
            **limits,
            "provenance": None,
        }
        facts |= {name: value for name, value in old.items() if name.startswith("limits") or name == "provenance"}
        write_bytes(path, (json.dumps(facts, indent=1) + "\n").encode())
        if (scene := shown(one)) is not None:
            picture_of(scene).save(path.with_name("input.png"))
    return [one.name for one in DEFINITIONS]


def request(one: Definition) -> dict[str, Any]:
    """What case.json asks of the model; docs/golden-images.md says what each field means."""
    if isinstance(one, Question):
        return {"task": "understand", "checkpoint": CHECKPOINT, "prompt": one.question, "max_tokens": one.tokens}
    guidance = one.guidance
    asked = {
        "checkpoint": CHECKPOINT,
        "prompt": one.prompt if isinstance(one, Drawn) else one.instruction,
        "seed": one.seed,
        "steps": one.steps,
        "timestep_shift": one.shift,
        "guidance": {
            "text_scale": guidance.text_scale,
            "image_scale": guidance.image_scale,
            "interval": list(guidance.interval),
            "renorm_type": guidance.renorm_type,
            "renorm_min": guidance.renorm_min,
        },
    }
    if isinstance(one, Edited):
        return {"task": "img2img"} | asked
    width, height = one.size
    return {"task": "t2i"} | asked | {"height": height, "width": width}


def shown(one: Definition) -> Scene | None:
    """The scene that the model is given; None for text-to-image."""
    if isinstance(one, Drawn):
        return None
    if isinstance(one, Question):
        return _found(_scenes(), one.shown)
    return _enlarged(edit_of(one).before, one.side / SIDE)


def edit_of(one: Edited) -> Edit:
    """The edit that an image-to-image case asks for, in a picture of the usual size."""
    return _found(_edits(), f"{one.before} | {one.instruction}")


@cache
def _scenes() -> dict[str, Scene]:
    return {caption(scene): scene for scene in held_out_scenes(SEARCHED, SIDE)[SCORED:]}


@cache
def _edits() -> dict[str, Edit]:
    return {edit.key: edit for edit in held_out_edits(SEARCHED, SIDE)[SCORED:]}


def _found(known: dict[str, T], key: str) -> T:
    if key not in known:
        raise ValueError(f"{key!r} is not held out, or not among the first {SEARCHED}; choose another")
    return known[key]


def _enlarged(scene: Scene, by: float) -> Scene:
    things = [replace(thing, x=thing.x * by, y=thing.y * by, radius=thing.radius * by) for thing in scene.things]
    return replace(scene, width=round(scene.width * by), height=round(scene.height * by), things=tuple(things))
