"""The eye: SigLIP with a linear patch embedding, and the connector into the language model's width.

Module and parameter names are the checkpoint's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel.config import VIT_EPS, VisionConfig
from bagel.latents import Grid, PositionTable
from bagel.probe import QUIET, Probe


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer, each patch seeing all others."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.layer_norm1 = nn.LayerNorm(config.hidden, eps=VIT_EPS)
        self.layer_norm2 = nn.LayerNorm(config.hidden, eps=VIT_EPS)
        self.self_attn = nn.ModuleDict(
            {name: nn.Linear(config.hidden, config.hidden) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        )
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(config.hidden, config.intermediate),
                "fc2": nn.Linear(config.intermediate, config.hidden),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] -> [n, width]."""
        x = x + self._attend(self.layer_norm1(x))
        wide = F.gelu(self.mlp["fc1"](self.layer_norm2(x)), approximate="tanh")
        out: Tensor = x + self.mlp["fc2"](wide)
        return out

    def _attend(self, x: Tensor) -> Tensor:
        n, width = x.shape
        q, k, v = (
            self.self_attn[name](x).view(1, n, self.heads, width // self.heads).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, width)
        out: Tensor = self.self_attn["out_proj"](mixed)
        return out


class Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, probe: Probe) -> Tensor:
        """[n, width] -> [n, width]."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            probe.at(layer=i)("out", x)
        return x


class Connector(nn.Module):
    """Features -> the language model's width, through one hidden layer."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(n_in, n_out), nn.Linear(n_out, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """[n, n_in] -> [n, n_out]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class VisionTransformer(nn.Module):
    """Patches -> features. Source: upstream's SiglipVisionTransformer without rotary embedding."""

    def __init__(self, config: VisionConfig, table_rows: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "patch_embedding": nn.Linear(config.channels * config.patch**2, config.hidden),
                # A given weight: drawing a random one, even on the meta device, makes PyTorch load its compiler (2 s).
                "position_embedding": nn.Embedding(
                    table_rows, config.hidden, _weight=torch.empty(table_rows, config.hidden)
                ),
            }
        )
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden, eps=VIT_EPS)

    def forward(self, patches: Tensor, position_ids: Tensor, probe: Probe) -> Tensor:
        """patches [n, patch * patch * channels], ids [n] -> [n, vision width]."""
        x = self.embeddings["patch_embedding"](patches) + self.embeddings["position_embedding"](position_ids)
        probe("embeddings", x)
        out: Tensor = self.post_layernorm(self.encoder(x, probe))
        probe("post_norm", out)
        return out


class Eye(nn.Module):
    """A picture -> rows of the language model: the tower, the connector, and a second position table."""

    def __init__(self, config: VisionConfig, hidden: int, table_rows: int) -> None:
        super().__init__()
        self.patch = config.patch
        self.vit_model = nn.ModuleDict({"vision_model": VisionTransformer(config, table_rows)})
        self.connector = Connector(config.hidden, hidden)
        self.vit_pos_embed = PositionTable(table_rows, hidden)

    @property
    def side(self) -> int:
        """Patches that fit along one side of a picture (upstream's vit_max_num_patch_per_side)."""
        return self.vit_pos_embed.side

    def forward(self, pixels: Tensor, grid: Grid, probe: Probe = QUIET) -> Tensor:
        """pixels [3, H, W] float32 in -1..1 -> [n, H_llm] in the weights' dtype."""
        weight = self.connector.fc1.weight
        patches = grid.pack(pixels, self.patch).to(weight.device, weight.dtype)
        ids = grid.positions(self.side, patches.device)
        probe("patches", patches)
        features = self.vit_model["vision_model"](patches, ids, probe)
        joined = self.connector(features)
        probe("connector", joined)
        out: Tensor = joined + self.vit_pos_embed(ids)
        return out
