"""The small model's configuration, its parameters as they are trained, and its export to BAGEL's own format."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bagel.autoencoder import Autoencoder
from bagel.config import AutoencoderConfig, BagelConfig, LanguageConfig
from bagel.latents import LatentAdapter
from bagel.layers import MoTLayer
from bagel.tokenizer import Tokenizer
from bagel.transformer import Transformer
from bagel.vision import Eye
from bagel.weights import IMAGE_SUFFIX, LLM
from reference_impl.contract import Experts, MoTOps, QKNorm
from training import tokenizer
from training.files import save_tensors, write_json


@dataclass(frozen=True)
class Sizes:
    """Everything that a checkpoint's config files say. The defaults are the small model: 8 MiB in half precision.

    picture               pixels of the square pictures that edits and questions are trained on
    table_side, eye_side  sides of the position tables: pictures of up to 16 * table_side pixels
    """

    picture: int = 128
    hidden: int = 128
    intermediate: int = 384
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    table_side: int = 16
    eye_hidden: int = 96
    eye_intermediate: int = 256
    eye_layers: int = 3
    eye_heads: int = 3
    eye_patch: int = 14
    eye_side: int = 16
    ae_width: int = 32
    ae_factors: tuple[int, ...] = (1, 1, 2, 2)
    ae_blocks: int = 1
    ae_channels: int = 8

    def autoencoder(self, scale: float, shift: float) -> AutoencoderConfig:
        """The autoencoder's part, with the figures that bring its latents to mean 0 and deviation 1."""
        return AutoencoderConfig(
            width=self.ae_width,
            width_factors=self.ae_factors,
            blocks=self.ae_blocks,
            latent_channels=self.ae_channels,
            scale=scale,
            shift=shift,
        )


TINY = Sizes(
    picture=64,
    hidden=32,
    intermediate=48,
    layers=2,
    heads=2,
    kv_heads=1,
    table_side=8,
    eye_hidden=24,
    eye_intermediate=32,
    eye_layers=1,
    eye_heads=2,
    eye_side=8,
    ae_factors=(1, 1, 1, 1),
    ae_channels=4,
)
"""For tests."""


def write_configs(folder: Path, sizes: Sizes, scale: float = 1.0, shift: float = 0.0) -> BagelConfig:
    """Write the JSON files and the tokenizer of a checkpoint folder, and read them back as BAGEL does.

    scale and shift bring the autoencoder's latents to mean 0 and deviation 1.
    """
    words = tokenizer.write(folder)
    vocab = -(-(words.largest_id + 1) // 32) * 32
    for name, fields in _configs(sizes, vocab, scale, shift).items():
        write_json(folder / f"{name}.json", fields)
    return BagelConfig.read(folder)


def _configs(sizes: Sizes, vocab: int, scale: float, shift: float) -> dict[str, dict[str, Any]]:
    return {
        "config": {
            "model_type": "bagel",
            "visual_gen": True,
            "visual_und": True,
            "connector_act": "gelu_pytorch_tanh",
            "interpolate_pos": False,
            "latent_patch_size": 2,
            "max_latent_size": sizes.table_side,
            "vit_max_num_patch_per_side": sizes.eye_side,
            # The names of upstream's data settings: how input pictures are brought to the sizes seen in training.
            "image_transform_args": _transform(16, sizes.picture),
            "vit_image_transform_args": _transform(sizes.eye_patch, sizes.picture // 16 * sizes.eye_patch),
        },
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "max_position_embeddings": 4096,
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers,
            "num_key_value_heads": sizes.kv_heads,
            "qk_norm": True,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": vocab,
        },
        "vit_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": sizes.eye_hidden,
            "image_size": sizes.eye_side * sizes.eye_patch,
            "intermediate_size": sizes.eye_intermediate,
            "num_attention_heads": sizes.eye_heads,
            "num_hidden_layers": sizes.eye_layers + 1,  # upstream drops the last one
            "patch_size": sizes.eye_patch,
        },
        "ae_config": {
            "resolution": 128,
            "in_channels": 3,
            "downsample": 8,
            "ch": sizes.ae_width,
            "out_ch": 3,
            "ch_mult": list(sizes.ae_factors),
            "num_res_blocks": sizes.ae_blocks,
            "z_channels": sizes.ae_channels,
            "scale_factor": scale,
            "shift_factor": shift,
        },
    }


def _transform(stride: int, side: int) -> dict[str, int]:
    return {"image_stride": stride, "max_image_size": side, "min_image_size": side}


class LayerTensors(NamedTuple):
    """One decoder layer, or all of them with one more axis in front: bagel's MoTLayer as bare tensors."""

    input_gain: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor
    q_gain: Tensor
    k_gain: Tensor
    o_weight: Tensor
    post_gain: Tensor
    gate_up: Tensor
    down: Tensor

    def as_layer(self, config: LanguageConfig) -> MoTLayer:
        """The same tensors as inference takes them."""
        return MoTLayer(
            self.input_gain,
            Experts(self.qkv_weight, self.qkv_bias),
            QKNorm(self.q_gain, self.k_gain, config.heads, config.kv_heads, config.eps),
            Experts(self.o_weight),
            self.post_gain,
            Experts(self.gate_up),
            Experts(self.down),
            config.eps,
        )


class Trainee(nn.Module):
    """All parameters but the autoencoder's, float32, randomly initialised.

    The layers are stacked, [layers, 2, ...]: one cast and one optimiser step serve all of them. The position tables are
    sines and cosines and stay so.
    """

    marker_ids: Tensor

    def __init__(self, config: BagelConfig, sizes: Sizes, words: Tokenizer, seed: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("marker_ids", torch.tensor([words.image_start, words.image_end]), persistent=False)
        language = config.language
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Parameter(torch.randn(language.vocab, language.hidden) * 0.5)
            self.head = nn.Parameter(torch.randn(language.vocab, language.hidden) * language.hidden**-0.5)
            self.layers = nn.ParameterDict(_initial_layers(language))
            self.final_gain = nn.Parameter(torch.ones(2, language.hidden))
            self.latents = LatentAdapter(config.latent_width, language.hidden, sizes.table_side**2)
            self.eye = Eye(config.vision, language.hidden, sizes.eye_side**2)
            _initialise(self.latents, self.eye)
        for table in (self.latents.latent_pos_embed, self.eye.vit_pos_embed):
            # Rounded as they will be in the file, so that training sees what inference will.
            values = sin_cos_table(table.side, language.hidden).bfloat16().float()
            table.pos_embed.data.copy_(values)
            table.pos_embed.requires_grad_(False)

    def stacked(self, dtype: torch.dtype) -> LayerTensors:
        """All layers in one dtype; gradients flow back to the float32 parameters."""
        return LayerTensors(*(self.layers[name].to(dtype) for name in LayerTensors._fields))

    def transformer(self, ops: MoTOps) -> Transformer:
        """Inference over these very tensors."""
        layers = [LayerTensors(*fields) for fields in zip(*self.stacked(torch.float32), strict=True)]
        language = self.config.language
        return Transformer(
            language,
            ops,
            self.embedding,
            tuple(layer.as_layer(language) for layer in layers),
            self.final_gain,
            self.head,
        )

    def published(self) -> dict[str, Tensor]:
        """The tensors under their published names, each expert by itself: what ema.safetensors holds."""
        tensors: dict[str, Tensor] = {
            f"{LLM}embed_tokens.weight": self.embedding,
            "language_model.lm_head.weight": self.head,
        }
        for expert, s in enumerate(("", IMAGE_SUFFIX)):
            tensors[f"{LLM}norm{s}.weight"] = self.final_gain[expert]
            for i in range(self.config.language.layers):
                layer = LayerTensors(*(self.layers[name][i, expert] for name in LayerTensors._fields))
                tensors |= {f"{LLM}layers.{i}.{name}": t for name, t in _published_layer(layer, s, self.config).items()}
        tensors |= self.latents.state_dict() | self.eye.state_dict()
        return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def export(folder: Path, sizes: Sizes, trainee: Trainee, autoencoder: Autoencoder) -> None:
    """Write a checkpoint folder: bfloat16 as the published model is, the autoencoder in float16.

    Raises ValueError if a tensor holds NaN or infinite values.
    """
    write_configs(folder, sizes, autoencoder.scale, autoencoder.shift)
    save_tensors(folder / "ema.safetensors", {n: t.bfloat16() for n, t in trainee.published().items()})
    save_tensors(folder / "ae.safetensors", {n: t.half() for n, t in autoencoder.state_dict().items()})


def sin_cos_table(side: int, hidden: int) -> Tensor:
    """[side^2, hidden] float32: half of the width for the column, half for the row; sines before cosines.

    Source: upstream's get_2d_sincos_pos_embed.
    """
    omega = 10000.0 ** -(torch.arange(hidden // 4, dtype=torch.float64) / (hidden / 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = []
    for axis in (column, row):
        angle = axis.flatten()[:, None].double() * omega
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).float()


def _initialise(latents: LatentAdapter, eye: Eye) -> None:
    """Linear layers keep the size of what goes through; what the eye adds must not drown in the position tables."""
    for module in (*latents.modules(), *eye.modules()):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    tower: Any = eye.vit_model["vision_model"]
    nn.init.normal_(tower.embeddings["position_embedding"].weight, std=0.5)
    for last in (eye.connector.fc2, latents.time_embedder.mlp[2]):
        nn.init.normal_(last.weight, std=2.0 * last.in_features**-0.5)  # type: ignore[arg-type, operator]
    nn.init.zeros_(latents.llm2vae.weight)


def _initial_layers(config: LanguageConfig) -> dict[str, nn.Parameter]:
    """Fan-in scaled weights; what writes to the residual stream starts smaller, by the number of such writes."""
    n, hidden, d, inner = config.layers, config.hidden, config.head_dim, config.intermediate
    qkv = (config.heads + 2 * config.kv_heads) * d
    writes = (2 * n) ** -0.5

    def normal(out: int, fan_in: int, factor: float = 1.0) -> Tensor:
        return torch.randn(n, 2, out, fan_in) * (factor / math.sqrt(fan_in))

    values = LayerTensors(
        input_gain=torch.ones(n, 2, hidden),
        qkv_weight=normal(qkv, hidden),
        qkv_bias=torch.zeros(n, 2, qkv),
        q_gain=torch.ones(n, 2, d),
        k_gain=torch.ones(n, 2, d),
        o_weight=normal(hidden, config.heads * d, writes),
        post_gain=torch.ones(n, 2, hidden),
        gate_up=normal(2 * inner, hidden),
        down=normal(hidden, inner, writes),
    )
    return {name: nn.Parameter(value) for name, value in values._asdict().items()}


def _published_layer(layer: LayerTensors, suffix: str, config: BagelConfig) -> dict[str, Tensor]:
    """One expert of one layer under its published names; the inverse of bagel's merge_layer."""
    language = config.language
    widths = [heads * language.head_dim for heads in (language.heads, language.kv_heads, language.kv_heads)]
    tensors = {
        f"self_attn.o_proj{suffix}.weight": layer.o_weight,
        f"self_attn.q_norm{suffix}.weight": layer.q_gain,
        f"self_attn.k_norm{suffix}.weight": layer.k_gain,
        f"mlp{suffix}.down_proj.weight": layer.down,
        f"input_layernorm{suffix}.weight": layer.input_gain,
        f"post_attention_layernorm{suffix}.weight": layer.post_gain,
    }
    weights, biases = (torch.split(tensor, widths) for tensor in (layer.qkv_weight, layer.qkv_bias))
    packed = zip("qkv", weights, biases, strict=True)
    for name, weight, bias in packed:
        tensors |= {f"self_attn.{name}_proj{suffix}.weight": weight, f"self_attn.{name}_proj{suffix}.bias": bias}
    for name, weight in zip(("gate", "up"), layer.gate_up.chunk(2), strict=True):
        tensors[f"mlp{suffix}.{name}_proj.weight"] = weight
    return tensors
