"""Latents as image tokens: how they are cut, embedded, and read back as velocities."""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel.probe import Probe
from reference_impl.contract import require

FREQUENCIES = 128
"""Frequencies of the time embedding; its width is twice that, cosines first."""


@dataclass(frozen=True)
class Grid:
    """How an H x W picture divides into image tokens, row-major. height and width count tokens."""

    height: int
    width: int

    @classmethod
    def of(cls, height: int, width: int, stride: int, side: int) -> "Grid":
        """The grid of a picture in pixels. Raises ValueError for a size that is no multiple of the stride, or too large
        for a position table of `side` x `side`.
        """
        for name, pixels in (("height", height), ("width", width)):
            require(
                pixels > 0 and pixels % stride == 0,
                "{} {} is not a multiple of {}; use {}",
                name,
                pixels,
                stride,
                max(stride, round(pixels / stride) * stride),
            )
            require(
                pixels // stride <= side,
                "{} {} needs {} tokens along one side but the checkpoint has positions for {}; use at most {}",
                name,
                pixels,
                pixels // stride,
                side,
                side * stride,
            )
        return cls(height // stride, width // stride)

    @property
    def n_tokens(self) -> int:
        """Image tokens of the picture."""
        return self.height * self.width

    def positions(self, side: int, device: torch.device | str = "cpu") -> Tensor:
        """[n_tokens] int64: row * side + column, an index into a position table of side^2 rows."""
        rows, columns = (torch.arange(n, device=device) for n in (self.height, self.width))
        return (rows[:, None] * side + columns[None, :]).flatten()

    def pack(self, latent: Tensor, patch: int) -> Tensor:
        """[C, height * patch, width * patch] -> [n_tokens, patch * patch * C], each row (dy, dx, channel)."""
        c = latent.shape[0]
        cut = latent.reshape(c, self.height, patch, self.width, patch)
        return cut.permute(1, 3, 2, 4, 0).reshape(self.n_tokens, patch * patch * c)

    def unpack(self, tokens: Tensor, patch: int) -> Tensor:
        """The inverse of `pack`."""
        c = tokens.shape[1] // (patch * patch)
        cut = tokens.reshape(self.height, self.width, patch, patch, c)
        return cut.permute(4, 0, 2, 1, 3).reshape(c, self.height * patch, self.width * patch)


class TimeEmbedder(nn.Module):
    """A time in 0..1, as it is, -> [1, H]. Source: upstream's TimestepEmbedder."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, t: Tensor) -> Tensor:
        """t [] float32 -> [1, H] in the weights' dtype; the angles are float32."""
        weight = next(self.parameters())
        angle = t.to(weight.device).float() * _frequencies(weight.device)
        out: Tensor = self.mlp(torch.cat([angle.cos(), angle.sin()])[None].to(weight.dtype))
        return out


@functools.cache
def _frequencies(device: torch.device) -> Tensor:
    """[FREQUENCIES] float32, from 1 down to 1/10000. Made once, or every update would launch four kernels for it."""
    j = torch.arange(FREQUENCIES, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10000.0) * j / FREQUENCIES)


class PositionTable(nn.Module):
    """A stored table [side^2, H]. The file's own tensor: its rounding to bfloat16 is part of the model."""

    def __init__(self, rows: int, hidden: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(rows, hidden))

    @property
    def side(self) -> int:
        """Positions along one axis."""
        return math.isqrt(self.pos_embed.shape[0])

    def forward(self, ids: Tensor) -> Tensor:
        """[n] int64 -> [n, H]."""
        return F.embedding(ids, self.pos_embed)


class LatentAdapter(nn.Module):
    """Between image tokens of the autoencoder's latent and rows of the language model. Names are the checkpoint's."""

    def __init__(self, latent_width: int, hidden: int, table_rows: int) -> None:
        super().__init__()
        self.vae2llm = nn.Linear(latent_width, hidden)
        self.llm2vae = nn.Linear(hidden, latent_width)
        self.time_embedder = TimeEmbedder(hidden)
        self.latent_pos_embed = PositionTable(table_rows, hidden)

    def embed(self, tokens: Tensor, t: Tensor, position_ids: Tensor, probe: Probe) -> Tensor:
        """vae2llm(tokens) + time(t) + position: tokens [n, width], t [] -> [n, H] in the weights' dtype."""
        projected = self.vae2llm(tokens.to(self.vae2llm.weight.dtype))
        time = self.time_embedder(t)
        position = self.latent_pos_embed(position_ids)
        probe("vae2llm", projected)
        probe("time", time)
        probe("latent_position", position)
        out: Tensor = projected + time + position
        return out
