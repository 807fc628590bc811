"""The batched training forward computes what bagel computes pass by pass over the reference implementation."""

import pytest
import torch
from torch import Tensor

from bagel.latents import Grid
from bagel.model import Bagel
from bagel.probe import QUIET
from training.flow import Prompted, Source, velocity
from training.model import Trainee
from training.understanding import Asked, logits

PROMPTS = ["a red circle on the left", "make the circle green", ""]
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def padded(lists: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, lists)) + 2
    return torch.tensor([ids + [7] * (width - len(ids)) for ids in lists]), torch.tensor([len(ids) for ids in lists])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("grid", [Grid(2, 2), Grid(2, 3)], ids=["square", "wide"])
def test_text_to_image_velocity_is_that_of_inference(trainee: Trainee, model: Bagel, grid: Grid) -> None:
    ids, lengths = padded([model.tokenizer.prompt(prompt) for prompt in PROMPTS])
    noisy, t = drawn(3, grid.n_tokens, model.config.latent_width), torch.tensor([0.9, 0.5, 0.1])
    lengths[2] = 0
    batch = velocity(trainee, Prompted(grid, ids, lengths), noisy, t, torch.ones(3, dtype=torch.bool))
    for i in range(3):
        context = model.transformer.empty_context()
        if lengths[i]:
            context = model.add_text(context, ids[i, : lengths[i]].tolist(), QUIET)
        x = model.embed_latents(noisy[i], t[i], grid, QUIET)
        alone = model.velocity(x, model.latent_block(context, grid), context, QUIET)
        torch.testing.assert_close(batch[i], alone, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("has_image", [True, False], ids=["with-image", "image-dropped"])
def test_edit_velocity_is_that_of_inference(trainee: Trainee, model: Bagel, has_image: bool) -> None:
    grid, width = Grid(2, 2), model.config.latent_width
    ids, lengths = padded([model.tokenizer.prompt(prompt) for prompt in PROMPTS])
    lengths[2] = 0
    noisy, clean, t = drawn(3, 4, width), drawn(3, 4, width, seed=1), torch.tensor([0.9, 0.5, 0.1])
    pixels = drawn(3, 3, 28, 42, seed=2)
    wish = Prompted(grid, ids, lengths, Source(clean, pixels))
    batch = velocity(trainee, wish, noisy, t, torch.full((3,), has_image))
    for i in range(3):
        context = model.transformer.empty_context()
        if has_image:
            context = model.add_latent_image(context, grid.unpack(clean[i], 2), grid, QUIET)
            context = model.add_vit_image(context, pixels[i], Grid(2, 3), QUIET)
        if lengths[i]:
            context = model.add_text(context, ids[i, : lengths[i]].tolist(), QUIET)
        x = model.embed_latents(noisy[i], t[i], grid, QUIET)
        alone = model.velocity(x, model.latent_block(context, grid), context, QUIET)
        torch.testing.assert_close(batch[i], alone, **CLOSE)


@torch.no_grad()
def test_answer_logits_are_those_of_inference(trainee: Trainee, model: Bagel) -> None:
    question, n_question = padded([model.tokenizer.prompt(text) for text in ("describe the picture", "what?", "")])
    answer, n_answer = padded([model.tokenizer.prompt(text) for text in ("a red star", "green", "three")])
    pixels = drawn(3, 3, 28, 28)
    batch = logits(trainee, Asked(pixels, question, n_question, answer, n_answer))
    for i in range(3):
        context = model.add_vit_image(model.transformer.empty_context(), pixels[i], Grid(2, 2), QUIET)
        context = model.add_text(context, question[i, : n_question[i]].tolist(), QUIET)
        ids = answer[i, : n_answer[i]].tolist()
        block = model.transformer.text_block(len(ids), context.position)
        hidden, _ = model.transformer.run(model.transformer.embed(ids), block, context)
        torch.testing.assert_close(batch[i, : len(ids)], model.transformer.logits(hidden), **CLOSE)
