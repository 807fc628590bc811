"""Flow matching: the loss of text-to-image and of editing, and a batched sampler to look at while training."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from bagel.latents import Grid
from bagel.sampler import schedule
from training import batched
from training.batched import DecoderLayer, Layout, latent, seen, text
from training.model import Trainee

TEXT_DROP, IMAGE_DROP = 0.1, 0.1
"""Shares of samples that lose their text, or the picture to edit, so that guidance has something to compare with."""
TIME_SHIFT = 2.0
"""More weight on noisy times, where it is decided what stands where."""


@dataclass(frozen=True)
class Source:
    """What an edit starts from: clean image tokens [B, n, width] and pixels for the eye [B, 3, H, W] in -1..1."""

    tokens: Tensor
    pixels: Tensor


@dataclass(frozen=True)
class Prompted:
    """A batch of wishes: ids [B, T] int64 padded at the end, lengths [B]; for edits also the source."""

    grid: Grid
    ids: Tensor
    lengths: Tensor
    source: Source | None = None


def draw_times(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """[n] float32 in 0..1, drawn on the device: logit-normal, then shifted as the sampler shifts."""
    t = torch.randn(n, generator=generator, device=device).sigmoid()
    return TIME_SHIFT * t / (1 + (TIME_SHIFT - 1) * t)


def flow_loss(
    trainee: Trainee, wish: Prompted, target: Tensor, generator: torch.Generator, layer: DecoderLayer | None = None
) -> Tensor:
    """Mean square error of the velocity noise - target at random times: target [B, n, width] -> []."""
    b = len(target)
    t = draw_times(b, generator, target.device)
    noise = torch.randn(target.shape, generator=generator, device=target.device)
    noisy = torch.lerp(target, noise, t[:, None, None])
    dropped = torch.rand(2, b, generator=generator, device=target.device)
    lengths = torch.where(dropped[0] < TEXT_DROP, 0, wish.lengths)
    has_image = dropped[1] >= IMAGE_DROP
    v = velocity(trainee, Prompted(wish.grid, wish.ids, lengths, wish.source), noisy, t, has_image, layer)
    return F.mse_loss(v.float(), noise - target)


def velocity(
    trainee: Trainee, wish: Prompted, noisy: Tensor, t: Tensor, has_image: Tensor, layer: DecoderLayer | None = None
) -> Tensor:
    """The model's velocity at noisy tokens [B, n, width], times t [B]; a sample of length 0 has no text.

    has_image [B] bool says which samples see the source. Same result as bagel's context passes and denoising pass.
    """
    b, n, _ = noisy.shape
    grid, adapter = wish.grid, trainee.latents
    parts, text_rows, image_rows, lengths = [], [], [], []
    if wish.source is not None:
        markers = _markers(trainee, b)
        sight = batched.look(trainee.eye, wish.source.pixels)
        parts += [latent(n), seen(sight.shape[1])]
        text_rows += [markers, markers[:, :1], sight, markers[:, 1:]]
        image_rows += [batched.embed_latents(adapter, wish.source.tokens, torch.zeros_like(t), grid)]
        lengths += [has_image.long(), has_image.long()]
    parts += [text(wish.ids.shape[1]), latent(n)]
    text_rows += [F.embedding(wish.ids, trainee.embedding), _markers(trainee, b)]
    image_rows += [batched.embed_latents(adapter, noisy, t, grid)]
    lengths += [wish.lengths, torch.ones_like(wish.lengths)]
    layout = Layout(tuple(parts))
    x = torch.cat([rows.to(compute_dtype(noisy)) for rows in (*text_rows, *image_rows)], dim=1)
    x = batched.run(trainee, x, layout, torch.stack(lengths, dim=1), layer)
    rows = x[:, layout.image_rows(len(parts) - 1)]
    out: Tensor = adapter.llm2vae(batched.final(rows, trainee.final_gain[1], trainee.config.language))
    return out


def compute_dtype(x: Tensor) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if x.is_cuda else torch.float32


def mixed(device: torch.device) -> AbstractContextManager[object]:
    """For what is around the decoder layers, the adapters and the eye: bfloat16 on a GPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _markers(trainee: Trainee, b: int) -> Tensor:
    """[B, 2, H]: start and end of an image."""
    return F.embedding(trainee.marker_ids, trainee.embedding).expand(b, 2, -1)


@torch.no_grad()
def sample(trainee: Trainee, wish: Prompted, noise: Tensor, steps: int = 25, scale: float = 4.0) -> Tensor:
    """Euler with text guidance, renormalised over all values: noise [B, n, width] -> tokens. To look at, not to score.

    bagel's pipeline is what is scored; here every context is computed again in every step.
    """
    x, b = noise, len(noise)
    everything = torch.ones(b, dtype=torch.bool, device=noise.device)
    nothing = Prompted(wish.grid, wish.ids, torch.zeros_like(wish.lengths), wish.source)
    times = schedule(steps, 3.0).tolist()
    for now, following in pairwise(times):
        t = torch.full((b,), now, device=noise.device)
        main = velocity(trainee, wish, x, t, everything).float()
        free = velocity(trainee, nothing, x, t, everything).float()
        guided = free + scale * (main - free)
        own, aim = (v.flatten(1).norm(dim=1)[:, None, None] for v in (guided, main))
        x = x - guided * (aim / own.clamp(min=1e-8)).clamp(max=1.0) * (now - following)
    return x
