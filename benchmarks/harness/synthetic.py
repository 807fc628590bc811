"""A BAGEL with seeded random weights, where the published ones are not at hand: speed does not depend on them."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from bagel.autoencoder import Autoencoder
from bagel.config import AutoencoderConfig, BagelConfig, LanguageConfig, VisionConfig
from bagel.latents import LatentAdapter
from bagel.layers import MoTLayer
from bagel.model import Bagel
from bagel.tokenizer import Tokenizer
from bagel.transformer import Transformer
from bagel.vision import Eye
from benchmarks.harness.shapes import BAGEL, SMALL, Shape
from reference_impl.contract import Experts, MoTOps, QKNorm

if typing.TYPE_CHECKING:  # commits from before there were quantised experts have no Kind
    from reference_impl.contract import Kind

LATENT_SIDE, EYE_SIDE = 64, 70
"""Sides of BAGEL-7B-MoT's position tables, in tokens and in patches."""


def config_of(shape: Shape, layers: int, vocab: int, eye: VisionConfig, autoencoder: AutoencoderConfig) -> BagelConfig:
    """A BAGEL whose decoder layers have the widths of `shape`."""
    language = LanguageConfig(
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        layers=layers,
        heads=shape.n_heads,
        kv_heads=shape.n_kv_heads,
        vocab=vocab,
        max_positions=32_768,
        eps=1e-6,
        rope_theta=1_000_000.0,
    )
    return BagelConfig(language, eye, autoencoder)


BAGEL_7B = config_of(BAGEL, 28, 152_064, VisionConfig(1152, 4304, 26, 16, 14), AutoencoderConfig())
"""BAGEL-7B-MoT. Source: its llm_config.json, vit_config.json and upstream's `load_ae`."""

_EYE, _AUTOENCODER = VisionConfig(64, 128, 2, 4, 14), AutoencoderConfig(width=32, width_factors=(1, 1, 1, 1), blocks=1)
TWIN = config_of(SMALL, 2, 1024, _EYE, _AUTOENCODER)
"""A twin that a CPU runs in milliseconds."""

MODELS = {"bagel-7b": BAGEL_7B, "twin": TWIN}


def model_named(name: str) -> BagelConfig:
    """One of MODELS. Raises ValueError."""
    if name not in MODELS:
        raise ValueError(f"model {name!r} is unknown; use one of {', '.join(MODELS)}")
    return MODELS[name]


def with_layers(config: BagelConfig, layers: int) -> BagelConfig:
    """The same with another number of decoder layers."""
    return replace(config, language=replace(config.language, layers=layers))


@dataclass
class Draw:
    """Normal values from one generator on the device, in one dtype."""

    device: torch.device
    dtype: torch.dtype
    seed: int = 0
    _generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._generator = torch.Generator(self.device).manual_seed(self.seed)

    def normal(self, *shape: int, deviation: float, mean: float = 0.0) -> Tensor:
        """A tensor of this shape."""
        empty = torch.empty(shape, dtype=self.dtype, device=self.device)
        return empty.normal_(mean, deviation, generator=self._generator)

    def gain(self, *shape: int) -> Tensor:
        """Gains of a norm, near 1."""
        return self.normal(*shape, deviation=0.1, mean=1.0)

    def weight(self, *shape: int) -> Tensor:
        """A weight [..., K] that keeps the size of what it multiplies."""
        return self.normal(*shape, deviation=shape[-1] ** -0.5)

    def fill(self, module: nn.Module) -> nn.Module:
        """Give a module that was built on the meta device its values."""
        filled = module.to(self.dtype).to_empty(device=self.device)
        for name, value in filled.named_parameters():
            if value.ndim > 1:
                value.data.normal_(0.0, math.prod(value.shape[1:]) ** -0.5, generator=self._generator)
            else:
                value.data.fill_(float(name.endswith("weight")))
        filled.requires_grad_(False)
        return filled


def random_bagel(
    config: BagelConfig,
    ops: MoTOps,
    tokenizer: Tokenizer,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    quantise: Kind | None = None,
) -> Bagel:
    """The whole model, its weights drawn on the device; the autoencoder is float32.

    quantise: the kind in which the linear layers of the decoder are kept, each as soon as it is drawn.
    """
    draw, language = Draw(device, dtype, seed), config.language
    with torch.device("meta"):
        latents = LatentAdapter(config.latent_width, language.hidden, LATENT_SIDE**2)
        eye, autoencoder = Eye(config.vision, language.hidden, EYE_SIDE**2), Autoencoder(config.autoencoder)
    draw.fill(latents)
    draw.fill(eye)
    Draw(device, torch.float32, seed).fill(autoencoder)
    transformer = Transformer(
        config=language,
        ops=ops,
        embedding=draw.normal(language.vocab, language.hidden, deviation=1.0),
        layers=tuple(_layer(draw, language, quantise) for _ in range(language.layers)),
        final_gain=draw.gain(2, language.hidden),
        head=draw.weight(language.vocab, language.hidden),
    )
    return Bagel(config, tokenizer, transformer, latents, eye, autoencoder)


def quantised(model: Bagel, kind: Kind) -> Bagel:
    """The same model with the linear layers of the decoder quantised, one by one; everything else is shared."""
    layers = tuple(layer.quantised(kind) for layer in model.transformer.layers)
    return replace(model, transformer=replace(model.transformer, layers=layers))


def _layer(draw: Draw, config: LanguageConfig, kind: Kind | None) -> MoTLayer:
    hidden, d = config.hidden, config.head_dim
    norm = QKNorm(draw.gain(2, d), draw.gain(2, d), config.heads, config.kv_heads, config.eps)
    layer = MoTLayer(
        input_gain=draw.gain(2, hidden),
        qkv=Experts(draw.weight(2, norm.qkv_width, hidden), draw.normal(2, norm.qkv_width, deviation=0.1)),
        qk_norm=norm,
        o=Experts(draw.weight(2, hidden, config.heads * d)),
        post_gain=draw.gain(2, hidden),
        gate_up=Experts(draw.weight(2, 2 * config.intermediate, hidden)),
        down=Experts(draw.weight(2, hidden, config.intermediate)),
        eps=config.eps,
    )
    return layer.quantised(kind) if kind else layer
