"""Other ways to compute a denoising step over the same weights: what the fused step is measured against.

gather   as the public code does it: rows [start, tokens, end] in index lists, one product per expert and projection,
         scattered into zeros; q and k normed in float32; keys and values behind the context in new tensors
sorted   rows [tokens of all, start, end of each], one cuBLAS product per expert and merged projection
dense    all rows through the image expert: what the step would cost if routing were free

Each is a function of one layer, so that it can be compiled once for all layers, and exact in itself: sorted and gather
are the reference's formulas in another arrangement. Source of gather: upstream's `modeling/bagel/qwen2_navit.py`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bagel.latents import Grid
from bagel.layers import KV, MoTLayer
from bagel.model import Bagel
from bagel.probe import QUIET
from bagel.transformer import Context
from reference_impl.contract import IMAGE, TEXT, Experts, Rotary, accumulation_dtype

Weights = dict[str, Tensor]
Way = typing.Literal["gather", "sorted", "dense"]


class Rows(typing.NamedTuple):
    """What one layer needs beside its weights: rows of each expert, rotary tables [M, d], q heads, eps, pictures."""

    text: Tensor
    image: Tensor
    cos: Tensor
    sin: Tensor
    heads: int
    eps: float
    pictures: int = 1


LayerOf = Callable[[Weights, Tensor, Rows, Tensor, Tensor], Tensor]


def weights_of(layer: MoTLayer) -> Weights:
    """The tensors of a layer by name, with views of each expert's projections: "q0" is the text expert's."""
    norm, d = layer.qk_norm, layer.qk_norm.head_dim
    sizes = {"q": norm.n_heads * d, "k": norm.n_kv_heads * d, "v": norm.n_kv_heads * d}
    found = {
        "input": layer.input_gain,
        "post": layer.post_gain,
        "q_gain": norm.q_gain,
        "k_gain": norm.k_gain,
        "qkv": layer.qkv.weight,
        "qkv_bias": _bias(layer.qkv),
        "o": layer.o.weight,
        "gate_up": layer.gate_up.weight,
        "down": layer.down.weight,
    }
    for expert in (TEXT, IMAGE):
        parts = zip(
            sizes,
            torch.split(layer.qkv.weight[expert], list(sizes.values())),
            torch.split(_bias(layer.qkv)[expert], list(sizes.values())),
            strict=True,
        )
        for name, weight, bias in parts:
            found[f"{name}{expert}"], found[f"{name}{expert}_bias"] = weight, bias
        found[f"gate{expert}"], found[f"up{expert}"] = layer.gate_up.weight[expert].chunk(2)
    return found


def _bias(experts: Experts) -> Tensor:
    return experts.weight.new_zeros(experts.weight.shape[:2]) if experts.bias is None else experts.bias


def gather_layer(w: Weights, x: Tensor, rows: Rows, past_k: Tensor, past_v: Tensor) -> Tensor:
    """One layer as the public code computes it. x [M, H], past_k and past_v [T, kv_heads, d] of all -> [M, H]."""
    each = ((TEXT, rows.text), (IMAGE, rows.image))
    d = rows.cos.shape[1]
    normed = torch.zeros_like(x)
    for expert, own in each:
        normed[own] = _norm(x[own], w["input"][expert], rows.eps)
    projected = []
    for name in ("q", "k", "v"):
        out = x.new_zeros(len(x), len(w[f"{name}0"]))
        for expert, own in each:
            out[own] = F.linear(normed[own], w[f"{name}{expert}"], w[f"{name}{expert}_bias"])
        projected.append(out.view(len(x), -1, d))
    q, k = (_wide(one) for one in projected[:2])
    for gain, one in (("q_gain", q), ("k_gain", k)):
        for expert, own in each:
            one[own] = _norm(one[own], w[gain][expert], rows.eps)
    q, k = (_turned(one, rows).to(x.dtype) for one in (q, k))
    every = torch.arange(len(past_k) + len(x), device=x.device).view(rows.pictures, -1)
    behind = len(past_k) // rows.pictures
    before, here = every[:, :behind].flatten(), every[:, behind:].flatten()
    merged = []
    for past, new in ((past_k, k), (past_v, projected[2])):
        whole = past.new_zeros(len(past) + len(new), *past.shape[1:])
        whole[here] = new
        whole[before] = past
        merged.append(whole)
    mixed = _attend(*(_split(one, rows.pictures) for one in (q, *merged))).flatten(0, 1)
    for expert, own in each:
        mixed[own] = F.linear(mixed[own], w["o"][expert])
    x = x + mixed
    out = torch.zeros_like(x)
    for expert, own in each:
        normed = _norm(x[own], w["post"][expert], rows.eps)
        gated = F.silu(F.linear(normed, w[f"gate{expert}"])) * F.linear(normed, w[f"up{expert}"])
        out[own] = F.linear(gated, w["down"][expert])
    return x + out


def sorted_layer(w: Weights, x: Tensor, rows: Rows, past_k: Tensor, past_v: Tensor) -> Tensor:
    """One layer over rows [tokens of all, start, end of each], without indices."""
    n = len(x) - 2 * rows.pictures

    def routed(value: Tensor, name: str, bias: Tensor | None = None) -> Tensor:
        image, text = (None, None) if bias is None else (bias[IMAGE], bias[TEXT])
        return torch.cat([F.linear(value[:n], w[name][IMAGE], image), F.linear(value[n:], w[name][TEXT], text)])

    gains = {name: _per_row(w[name], n, len(x)) for name in ("input", "post", "q_gain", "k_gain")}
    return _merged_layer(w, x, rows, (past_k, past_v), (routed, gains))


def dense_layer(w: Weights, x: Tensor, rows: Rows, past_k: Tensor, past_v: Tensor) -> Tensor:
    """One layer with the image expert for all rows."""

    def all_image(value: Tensor, name: str, bias: Tensor | None = None) -> Tensor:
        return F.linear(value, w[name][IMAGE], None if bias is None else bias[IMAGE])

    gains = {name: w[name][IMAGE] for name in ("input", "post", "q_gain", "k_gain")}
    return _merged_layer(w, x, rows, (past_k, past_v), (all_image, gains))


def _merged_layer(
    w: Weights, x: Tensor, rows: Rows, past: tuple[Tensor, Tensor], how: tuple[Callable[..., Tensor], Weights]
) -> Tensor:
    linear, gains = how
    d, kv_heads = rows.cos.shape[1], past[0].shape[1]
    qkv = linear(_norm(x, gains["input"], rows.eps), "qkv", w["qkv_bias"]).view(len(x), -1, d)
    q, k, v = torch.split(qkv, [rows.heads, kv_heads, kv_heads], dim=1)
    q_gain, k_gain = (gains[name] if gains[name].ndim == 1 else gains[name][:, None] for name in ("q_gain", "k_gain"))
    q = _turned(_norm(_wide(q), q_gain, rows.eps), rows).to(x.dtype)
    k = _turned(_norm(_wide(k), k_gain, rows.eps), rows).to(x.dtype)
    q, k, v = (_by_picture(one, rows.pictures) for one in (q, k, v))
    behind = [_split(one, rows.pictures) for one in past]
    mixed = _attend(q, torch.cat([behind[0], k], dim=1), torch.cat([behind[1], v], dim=1))
    x = x + linear(_together(mixed), "o")
    gate, up = linear(_norm(x, gains["post"], rows.eps), "gate_up").chunk(2, dim=1)
    return x + linear(F.silu(gate) * up, "down")


def _per_row(gain: Tensor, n_image: int, n: int) -> Tensor:
    return torch.cat([gain[IMAGE].expand(n_image, -1), gain[TEXT].expand(n - n_image, -1)])


def _split(x: Tensor, pictures: int) -> Tensor:
    return x.view(pictures, -1, *x.shape[1:])


def _by_picture(x: Tensor, pictures: int) -> Tensor:
    """[tokens of all, start, end of each] -> [pictures, rows of one, ...]; a view of a single picture."""
    if pictures == 1:
        return x[None]
    n = len(x) - 2 * pictures
    return torch.cat([_split(x[:n], pictures), _split(x[n:], pictures)], dim=1)


def _together(x: Tensor) -> Tensor:
    """The other way."""
    return x[0] if len(x) == 1 else torch.cat([x[:, :-2].flatten(0, 1), x[:, -2:].flatten(0, 1)])


def _norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    wide = _wide(x)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * gain


def _wide(x: Tensor) -> Tensor:
    return x.to(accumulation_dtype(x.dtype))


def _turned(x: Tensor, rows: Rows) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * rows.cos[:, None] + torch.cat([-second, first], dim=-1) * rows.sin[:, None]


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each picture within itself: q [pictures, rows, heads, d] -> [pictures, rows, heads * d]."""
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)


LAYERS: dict[Way, LayerOf] = {"gather": gather_layer, "sorted": sorted_layer, "dense": dense_layer}


@dataclass(frozen=True)
class Baseline:
    """A denoising step by one of the ways, each picture behind a context of its own; `layer` may be a compiled one."""

    model: Bagel
    way: Way
    layer: LayerOf
    grid: Grid
    past: tuple[KV, ...]
    rows: Rows
    weights: tuple[Weights, ...]
    ids: Tensor
    markers: Tensor

    @classmethod
    def of(
        cls, model: Bagel, way: Way, grid: Grid, context: Context, compiled: bool = False, pictures: int = 1
    ) -> Baseline:
        """The same step as a Workspace of so many pictures of that grid, each behind that context."""
        config, m = model.transformer.config, pictures * (grid.n_tokens + 2)
        layer = typing.cast(LayerOf, torch.compile(LAYERS[way], dynamic=False)) if compiled else LAYERS[way]
        place = torch.full((m,), context.position, device=model.device)
        table = Rotary.at(place, config.head_dim, config.rope_theta)
        every = torch.arange(m, device=model.device)
        each = every.view(pictures, -1)
        text = each[:, [0, -1]].flatten() if way == "gather" else every[-2 * pictures :]
        image = each[:, 1:-1].flatten() if way == "gather" else every[: -2 * pictures]
        rows = Rows(text, image, table.cos, table.sin, config.heads, config.eps, pictures)
        past = context.layers
        if pictures > 1:
            past = tuple(KV(*(one.repeat(pictures, 1, 1) for one in (kv.k, kv.v))) for kv in past)
        weights = tuple(weights_of(one) for one in model.transformer.layers)
        ids = grid.positions(model.latent_side, model.device).repeat(pictures)
        return cls(model, way, layer, grid, past, rows, weights, ids, model.markers())

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """The velocities [pictures * tokens, latent width] of latents x at time t []."""
        model, start, end = self.model, self.markers[:1], self.markers[1:]
        tokens = model.latents.embed(x, t, self.ids, QUIET)
        n = self.rows.pictures
        each = [start, tokens, end] if n == 1 else [p for one in tokens.chunk(n) for p in (start, one, end)]
        hidden = torch.cat(each if self.way == "gather" else [tokens, *[start, end] * n])
        for w, past in zip(self.weights, self.past, strict=True):
            hidden = self.layer(w, hidden, self.rows, past.k, past.v)
        gain, eps = model.transformer.final_gain[IMAGE], model.transformer.config.eps
        out: Tensor = model.latents.llm2vae(_norm(hidden[self.rows.image], gain, eps))
        return out
