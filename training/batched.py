"""The model over a batch: what bagel/ computes pass by pass with a cache, in one pass with a mask, for training.

A batch is [B, S, H] with the text expert's rows first and the image expert's behind them in every sample, so each
expert owns one slice and nothing is gathered. Which row sees which, and where it stands, is a Layout. The formulas are
the reference's; tests hold the results against bagel/ over the reference implementation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bagel.config import LanguageConfig
from bagel.latents import FREQUENCIES, Grid, LatentAdapter
from bagel.vision import EncoderLayer, Eye
from reference_impl.contract import IMAGE, TEXT, Rotary
from training.model import LayerTensors, Trainee


class Part(NamedTuple):
    """A pass of inference as a part of the sequence: a text (causal), or an image between its markers."""

    n_text: int
    n_image: int
    causal: bool


def text(n_tokens: int) -> Part:
    """A prompt or an answer."""
    return Part(n_tokens, 0, True)


def seen(n_tokens: int) -> Part:
    """What the eye sees, with its markers."""
    return Part(n_tokens + 2, 0, False)


def latent(n_tokens: int) -> Part:
    """Image tokens, with their markers."""
    return Part(2, n_tokens, False)


@dataclass(frozen=True)
class Layout:
    """The parts of a sequence, in the order of the passes.

    Rows: the text rows of all parts, then the image rows of all parts. Example: a prompt of 5 and an image of 64 make
    rows 0-4 prompt, 5-6 markers, 7-70 image.
    """

    parts: tuple[Part, ...]

    @property
    def n_text(self) -> int:
        """Rows of the text expert."""
        return sum(part.n_text for part in self.parts)

    @property
    def n_rows(self) -> int:
        """S."""
        return sum(part.n_text + part.n_image for part in self.parts)

    def text_rows(self, part: int) -> slice:
        """Where the text rows of a part are."""
        start = sum(before.n_text for before in self.parts[:part])
        return slice(start, start + self.parts[part].n_text)

    def image_rows(self, part: int) -> slice:
        """Where the image rows of a part are."""
        start = self.n_text + sum(before.n_image for before in self.parts[:part])
        return slice(start, start + self.parts[part].n_image)

    def place(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """lengths [B, parts]: tokens of a text, 1 for an image, 0 for what a sample lacks -> positions and visibility.

        positions [B, S] int64: by what each part moves on is its length. visible [B, S, S] bool: a row sees the parts
        in front of its own, and of its own what is not behind it if it is causal. Rows that a sample lacks are seen by
        none, but see themselves, so that every softmax has a value.
        """
        part, order, causal = _owners(self.parts, lengths.device)
        start = lengths.cumsum(1) - lengths
        positions = start[:, part] + order * causal
        length = lengths[:, part]
        there = torch.where(causal, order < length, length > 0)
        same = part[:, None] == part[None, :]
        not_behind = ~causal[:, None] | (order[None, :] <= order[:, None])
        sees = (part[None, :] < part[:, None]) | (same & not_behind)
        itself = torch.eye(len(part), dtype=torch.bool, device=lengths.device)
        return positions, (sees & there[:, None, :]) | itself


DecoderLayer = Callable[..., Tensor]
"""`decoder_layer`, or what torch.compile makes of it."""


@cache
def _owners(parts: tuple[Part, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each row: its part, its order in it, and whether the part is causal, [S] each."""
    part = [i for expert in (TEXT, IMAGE) for i, p in enumerate(parts) for _ in range(p[expert])]
    order = [j for expert in (TEXT, IMAGE) for p in parts for j in range(p[expert])]
    columns = (part, order, [parts[i].causal for i in part])
    return tuple(torch.tensor(column, device=device) for column in columns)  # type: ignore[return-value]


def run(trainee: Trainee, x: Tensor, layout: Layout, lengths: Tensor, layer: DecoderLayer | None = None) -> Tensor:
    """All layers: x [B, S, H] in the dtype to compute in -> [B, S, H], before the final norm.

    layer is `decoder_layer` unless a compiled one is given.
    """
    config = trainee.config.language
    positions, visible = layout.place(lengths)
    table = Rotary.at(positions.flatten(), config.head_dim, config.rope_theta)
    cos, sin = (values.view(*positions.shape, 1, -1).to(x.dtype) for values in (table.cos, table.sin))
    hidden = torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill_(~visible, float("-inf"))
    step = decoder_layer if layer is None else layer
    shape = (config.heads, config.kv_heads, config.eps)
    for fields in zip(*(stack.unbind(0) for stack in trainee.stacked(x.dtype)), strict=True):
        x = step(LayerTensors(*fields), x, layout.n_text, cos, sin, hidden[:, None], shape)
    return x


def decoder_layer(
    layer: LayerTensors,
    x: Tensor,
    n_text: int,
    cos: Tensor,
    sin: Tensor,
    hidden: Tensor,
    shape: tuple[int, int, float],
) -> Tensor:
    """bagel.layers.decoder_layer over a batch: x [B, S, H]; cos, sin [B, S, 1, d]; hidden [B, 1, S, S], minus
    infinity where a row does not see another, else 0.

    shape: query heads, key/value heads, eps.
    """
    heads, kv_heads, eps = shape
    b, s, _ = x.shape
    qkv = linear(norm(x, layer.input_gain, n_text, eps), layer.qkv_weight, n_text, layer.qkv_bias)
    qk, v = qkv.view(b, s, heads + 2 * kv_heads, -1).tensor_split([heads + kv_heads], dim=2)
    gain = torch.cat([layer.q_gain[:, None].expand(-1, heads, -1), layer.k_gain[:, None].expand(-1, kv_heads, -1)], 1)
    q, k = rotate(norm(qk, gain, n_text, eps), cos, sin).tensor_split([heads], dim=2)
    k, v = (tensor.repeat_interleave(heads // kv_heads, dim=2) for tensor in (k, v))
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden).transpose(1, 2).reshape(b, s, -1)
    x = x + linear(mixed, layer.o_weight, n_text)
    gate, up = linear(norm(x, layer.post_gain, n_text, eps), layer.gate_up, n_text).chunk(2, dim=-1)
    return x + linear(F.silu(gate) * up, layer.down, n_text)


def linear(x: Tensor, weight: Tensor, n_text: int, bias: Tensor | None = None) -> Tensor:
    """The routed linear layer: x [B, S, K], weight [2, N, K], bias [2, N] -> [B, S, N]."""
    parts = [
        F.linear(rows, weight[expert], None if bias is None else bias[expert])
        for expert, rows in enumerate((x[:, :n_text], x[:, n_text:]))
        if rows.shape[1]
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def norm(x: Tensor, gain: Tensor, n_text: int, eps: float) -> Tensor:
    """The routed RMSNorm over the last axis: x [B, S, ..., K], gain [2, ..., K]."""
    same = [-1] * (gain.ndim - 1)
    gains = torch.cat([gain[:1].expand(n_text, *same), gain[1:].expand(x.shape[1] - n_text, *same)])
    return F.rms_norm(x, x.shape[-1:], eps=eps) * gains


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotary embedding: x [B, S, heads, d]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def embed_latents(adapter: LatentAdapter, tokens: Tensor, t: Tensor, grid: Grid) -> Tensor:
    """bagel's LatentAdapter.embed: tokens [B, n, width], t [B] -> [B, n, H]."""
    j = torch.arange(FREQUENCIES, dtype=torch.float32, device=tokens.device)
    angle = t.float()[:, None] * torch.exp(-math.log(10000.0) * j / FREQUENCIES)
    time = adapter.time_embedder.mlp(torch.cat([angle.cos(), angle.sin()], dim=1))
    place = adapter.latent_pos_embed(grid.positions(adapter.latent_pos_embed.side, tokens.device))
    out: Tensor = adapter.vae2llm(tokens) + time[:, None] + place
    return out


def look(eye: Eye, pixels: Tensor) -> Tensor:
    """bagel's Eye: pixels [B, 3, H, W] in -1..1 -> [B, n, H_llm]."""
    b, _, height, width = pixels.shape
    grid = Grid(height // eye.patch, width // eye.patch)
    cut = pixels.view(b, 3, grid.height, eye.patch, grid.width, eye.patch)
    patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(b, grid.n_tokens, -1)
    ids = grid.positions(eye.side, pixels.device)
    tower: Any = eye.vit_model["vision_model"]
    x = tower.embeddings["patch_embedding"](patches) + tower.embeddings["position_embedding"](ids)
    for layer in tower.encoder.layers:
        x = _eye_layer(layer, x)
    out: Tensor = eye.connector(tower.post_layernorm(x)) + eye.vit_pos_embed(ids)
    return out


def _eye_layer(layer: EncoderLayer, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    normed = layer.layer_norm1(x)
    q, k, v = (
        layer.self_attn[name](normed).view(b, n, layer.heads, -1).transpose(1, 2)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)
    x = x + layer.self_attn["out_proj"](mixed)
    wide = F.gelu(layer.mlp["fc1"](layer.layer_norm2(x)), approximate="tanh")
    out: Tensor = x + layer.mlp["fc2"](wide)
    return out


def final(x: Tensor, gain: Tensor, config: LanguageConfig) -> Tensor:
    """The final RMSNorm with one expert's gain [H]."""
    return F.rms_norm(x, x.shape[-1:], gain.to(x.dtype), config.eps)
