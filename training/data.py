"""Scenes, edits and questions as tables of numbers: drawn by worker processes, each chunk from its own seed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bagel.tokenizer import Tokenizer
from training.edits import Edit, draw_edit
from training.render import pack
from training.understanding import ask
from training.workers import start_server
from training.world import Scene, caption, draw, held_out

PROMPT_TOKENS, EDIT_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 30, 10, 9, 29
"""Longest texts of the world with their two markers, so that a batch has one shape; the prompt's is rounded up."""
CHUNK = 1024

Columns = dict[str, NDArray[np.generic]]
Table = dict[str, Tensor]


@dataclass(frozen=True)
class Order:
    """What to draw: kind "scene" or "edit", pictures of (width, height), and the tokenizer's folder."""

    kind: str
    width: int
    height: int
    folder: Path


def draw_new(rng: Random, order: Order) -> Scene:
    """A scene whose caption is not held out."""
    while held_out(caption(scene := draw(rng, order.width, order.height))):
        pass
    return scene


def draw_new_edit(rng: Random, order: Order) -> Edit:
    """An edit that is not held out."""
    while held_out((edit := draw_edit(rng, order.width, order.height)).key):
        pass
    return edit


def draw_chunk(order: Order, seed: str, n: int) -> Columns:
    """n samples of one kind. The seed is a text: a chunk is the same whoever draws it."""
    rng, words = Random(seed), _tokenizer(order.folder)
    return _scenes(rng, words, order, n) if order.kind == "scene" else _edits(rng, words, order, n)


def _scenes(rng: Random, words: Tokenizer, order: Order, n: int) -> Columns:
    scenes = [draw_new(rng, order) for _ in range(n)]
    questions, answers = zip(*(ask(rng, scene) for scene in scenes), strict=True)
    columns: Columns = {"scene": np.stack([pack(scene) for scene in scenes])}
    columns |= _texts("prompt", words, [caption(scene) for scene in scenes], PROMPT_TOKENS)
    columns |= _texts("question", words, list(questions), QUESTION_TOKENS)
    return columns | _texts("answer", words, list(answers), ANSWER_TOKENS)


def _edits(rng: Random, words: Tokenizer, order: Order, n: int) -> Columns:
    edits = [draw_new_edit(rng, order) for _ in range(n)]
    columns: Columns = {
        "before": np.stack([pack(edit.before) for edit in edits]),
        "after": np.stack([pack(edit.after) for edit in edits]),
    }
    return columns | _texts("prompt", words, [edit.instruction for edit in edits], EDIT_TOKENS)


def _texts(name: str, words: Tokenizer, texts: list[str], width: int) -> Columns:
    """Ids [n, width] padded with 0, and lengths [n]."""
    ids = np.zeros((len(texts), width), dtype=np.int16)
    lengths = np.zeros(len(texts), dtype=np.int16)
    for row, text in enumerate(texts):
        tokens = words.prompt(text)
        if len(tokens) > width:
            raise ValueError(f"text {text!r} has {len(tokens)} tokens but the layout holds {width}; raise its constant")
        ids[row, : len(tokens)] = tokens
        lengths[row] = len(tokens)
    return {name: ids, f"{name}_lengths": lengths}


@cache
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


class Drawers:
    """Worker processes that draw tables; with 0 processes the caller draws. Use as a context manager."""

    def __init__(self, processes: int) -> None:
        self.pool = start_server().Pool(processes) if processes else None

    def __enter__(self) -> "Drawers":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.pool is not None:
            self.pool.terminate()

    def table(self, order: Order, seed: str, n: int) -> Callable[[], Table]:
        """Start to draw n samples; calling the result waits for them. Integers come as int64."""
        sizes = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]
        jobs = [(order, f"{seed}/{order.kind}/{order.width}x{order.height}/{i}", k) for i, k in enumerate(sizes)]
        waiting = None if self.pool is None else self.pool.starmap_async(draw_chunk, jobs, chunksize=1)

        def result() -> Table:
            chunks = [draw_chunk(*job) for job in jobs] if waiting is None else waiting.get()
            joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
            return {
                name: torch.from_numpy(column if column.dtype == np.float32 else column.astype(np.int64))
                for name, column in joined.items()
            }

        return result
