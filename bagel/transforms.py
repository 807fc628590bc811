"""Pictures in and out: colour, sizes, pixel values."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reference_impl.contract import require

MAX_PIXELS = 14 * 14 * 9 * 1024


@dataclass(frozen=True)
class Resize:
    """Upstream's MaxLongEdgeMinShortEdgeResize: sides are multiples of `stride`, the short one is brought up to
    `min_size` and the long one down to `max_size`, which wins; `round` is half to even.
    """

    max_size: int
    min_size: int
    stride: int
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name in ("max_size", "min_size", "stride", "max_pixels"):
            require(getattr(self, name) > 0, "resize {} is {} but must be positive", name, getattr(self, name))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) that a picture of this size is brought to."""
        scale = min(self.max_size / max(width, height), 1.0)
        scale = max(scale, self.min_size / min(width, height))
        width, height = self._scaled(width, height, scale)
        if width * height > self.max_pixels:
            # The area ratio itself, without a square root: upstream's formula.
            width, height = self._scaled(width, height, self.max_pixels / (width * height))
        if max(width, height) > self.max_size:
            width, height = self._scaled(width, height, self.max_size / max(width, height))
        return width, height

    def _scaled(self, width: int, height: int, scale: float) -> tuple[int, int]:
        return self._fit(round(width * scale)), self._fit(round(height * scale))

    def _fit(self, side: int) -> int:
        return max(self.stride, round(side / self.stride) * self.stride)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The picture at that size, PIL bicubic."""
        return image.resize(self.size(*image.size), Image.Resampling.BICUBIC)


VAE_RESIZE = Resize(max_size=1024, min_size=512, stride=16)
VIT_RESIZE = Resize(max_size=980, min_size=224, stride=14)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB; what is transparent is put on white.

    Source: upstream's `pil_img2rgb`, which knows of no transparent grey (LA, PA). Raises ValueError for more than 8
    bits a value: Pillow would cut them off at 255.
    """
    require(
        image.mode not in ("I", "F") and ";" not in image.mode,
        "a picture of mode {} has more than 8 bits a value; scale it to 0..255 and save it as 8 bit grey or RGB",
        image.mode,
    )
    if image.mode in ("RGBA", "LA", "PA") or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def to_pixels(image: Image.Image) -> Tensor:
    """RGB picture -> [3, H, W] float32 in -1..1."""
    data = torch.from_numpy(np.array(image, dtype=np.uint8))
    return (data.permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def to_image(raw: Tensor) -> Image.Image:
    """Raw pixels [3, H, W] about -1..1 -> RGB picture: trunc(255 * clamp(raw / 2 + 1/2, 0, 1)).

    Raises ValueError if a value is NaN or infinite.
    """
    require(
        bool(raw.isfinite().all()),
        "the decoded picture holds {} NaN or infinite values of {}",
        int((~raw.isfinite()).sum()),
        raw.numel(),
    )
    data = ((raw * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8)
    return Image.fromarray(data.permute(1, 2, 0).contiguous().cpu().numpy())
