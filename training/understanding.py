"""Understanding: questions about scenes, and the loss of writing the answers."""

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from training import batched
from training.batched import DecoderLayer, Layout, seen, text
from training.flow import compute_dtype
from training.model import Trainee
from training.world import Scene, caption

DESCRIBE = "describe the picture"
COUNTS = ("one", "two", "three")
IGNORE = -100


@dataclass(frozen=True)
class Asked:
    """A batch of pictures with a question and its answer: pixels [B, 3, H, W] in -1..1 for the eye.

    question, answer  ids [B, T] int64 padded at the end, each [bos, ..., eos], with lengths [B]
    """

    pixels: Tensor
    question: Tensor
    question_lengths: Tensor
    answer: Tensor
    answer_lengths: Tensor


def ask(rng: Random, scene: Scene) -> tuple[str, str]:
    """A question about a scene and its answer; most often its caption is asked for."""
    kind = rng.random()
    if kind < 0.65:
        return DESCRIBE, caption(scene)
    if kind < 0.8:
        return "how many shapes are there?", COUNTS[len(scene.things) - 1]
    if kind < 0.9:
        return "what colour is the background?", scene.background.colour
    shapes = [thing.shape for thing in scene.things]
    alone = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    if not alone:
        return DESCRIBE, caption(scene)
    thing = rng.choice(alone)
    return f"what colour is the {thing.shape}?", thing.colour


def answer_loss(trainee: Trainee, asked: Asked, layer: DecoderLayer | None = None) -> Tensor:
    """Mean cross-entropy, in nats, of each next token of the answers, the end included -> []."""
    scores = logits(trainee, asked, layer)[:, :-1].float()
    order = torch.arange(1, asked.answer.shape[1], device=scores.device)
    targets = torch.where(order < asked.answer_lengths[:, None], asked.answer[:, 1:], IGNORE)
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def logits(trainee: Trainee, asked: Asked, layer: DecoderLayer | None = None) -> Tensor:
    """Of what follows each token of the answers: [B, T, vocab]. Same as bagel's ViT, text and decoding passes."""
    sight = batched.look(trainee.eye, asked.pixels)
    b, n, _ = sight.shape
    markers = F.embedding(trainee.marker_ids, trainee.embedding).expand(b, 2, -1)
    layout = Layout((seen(n), text(asked.question.shape[1]), text(asked.answer.shape[1])))
    pieces = [markers[:, :1], sight, markers[:, 1:]]
    pieces += [F.embedding(ids, trainee.embedding) for ids in (asked.question, asked.answer)]
    x = torch.cat([piece.to(compute_dtype(sight)) for piece in pieces], dim=1)
    lengths = torch.stack(
        [torch.ones_like(asked.question_lengths), asked.question_lengths, asked.answer_lengths], dim=1
    )
    x = batched.run(trainee, x, layout, lengths, layer)
    rows = batched.final(x[:, layout.text_rows(2)], trainee.final_gain[0], trainee.config.language)
    return F.linear(rows, trainee.head.to(rows.dtype))
