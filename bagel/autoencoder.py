"""The FLUX-style autoencoder between pixels and latents. Always float32. Names are the checkpoint's.

Source: upstream's modeling/autoencoder.py; spelled out here because the checkpoint's tensor names are its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel.config import AutoencoderConfig

GROUPS, EPS = 32, 1e-6
"""Of every GroupNorm."""


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=EPS)


def _conv(n_in: int, n_out: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel_size=3, padding=1)


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3 conv, twice; the shortcut is a 1x1 conv if the channels change."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(n_in), _conv(n_in, n_out)
        self.norm2, self.conv2 = _norm(n_out), _conv(n_out, n_out)
        if n_in != n_out:
            self.nin_shortcut = nn.Conv2d(n_in, n_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """[1, n_in, h, w] -> [1, n_out, h, w]."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        out: Tensor = shortcut + y
        return out


class PixelAttention(nn.Module):
    """Single-head attention over all positions, with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, kernel_size=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[1, c, h, w] -> the same."""
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.proj_out(mixed)
        return out


class Middle(nn.Module):
    """Block, attention, block at the coarsest level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = PixelAttention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[1, c, h, w] -> the same."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Downsample(nn.Module):
    """Halve: pad right and bottom by one zero, then a 3x3 conv of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[1, c, h, w] -> [1, c, h/2, w/2]."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double by nearest neighbour, then a 3x3 conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[1, c, h, w] -> [1, c, 2h, 2w]."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """The residual blocks at one resolution, then a resampling that all levels but one have."""

    def __init__(self, n_in: int, n_out: int, blocks: int, resample: str | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(n_in if j == 0 else n_out, n_out) for j in range(blocks))
        self.resample = resample
        if resample == "downsample":
            self.downsample = Downsample(n_out)
        elif resample == "upsample":
            self.upsample = Upsample(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """[1, n_in, h, w] -> [1, n_out, h', w']."""
        for block in self.block:
            x = block(x)
        if self.resample is not None:
            x = getattr(self, self.resample)(x)
        return x


class Encoder(nn.Module):
    """Pixels [1, 3, H, W] -> mean and log-variance [1, 2C, H/8, W/8]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.width * factor for factor in config.width_factors]
        last = len(widths) - 1
        self.conv_in = _conv(config.in_channels, config.width)
        self.down = nn.ModuleList(
            Level(config.width if i == 0 else widths[i - 1], width, config.blocks, "downsample" if i != last else None)
            for i, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = _conv(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """Latent [1, C, h, w] -> pixels [1, 3, 8h, 8w]; levels run from the last to the first."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.width * factor for factor in config.width_factors]
        self.conv_in = _conv(config.latent_channels, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            Level(widths[min(i + 1, len(widths) - 1)], width, config.blocks + 1, "upsample" if i != 0 else None)
            for i, width in enumerate(widths)
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = _conv(widths[0], config.out_channels)

    def forward(self, z: Tensor) -> Tensor:
        """See the class."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class Autoencoder(nn.Module):
    """Both halves, with the scale and shift between the network's latent and the model's."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.scale, self.shift = config.scale, config.shift
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [3, H, W] float32 in -1..1 -> mean and log-variance, [C, H/8, W/8] each."""
        mean, logvar = self.encoder(pixels[None])[0].chunk(2)
        return mean, logvar

    def sample(self, mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        """scale * (mean + exp(logvar / 2) * noise - shift): [C, H/8, W/8]. Upstream samples when it encodes."""
        return self.scale * (mean + torch.exp(0.5 * logvar) * noise - self.shift)

    def decode(self, latent: Tensor) -> Tensor:
        """[C, H/8, W/8] -> raw pixels [3, H, W], about -1..1 but not clamped; float32 like the autoencoder itself."""
        out: Tensor = self.decoder(latent[None].float() / self.scale + self.shift)[0]
        return out
