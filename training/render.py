"""Scenes as numbers and as pictures: a batch is drawn at once from signed distances, on any device.

A scene is a row of 27 float32 numbers (`pack`), so that a training step draws its pictures on the GPU from a table.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reference_impl.contract import require
from training.world import SHAPES, TEXTURES, WORDS, Scene

SLOTS, FIELDS = 3, 7
ROW_WIDTH = SLOTS * FIELDS + 6
"""Things (shape or -1, x, y, radius, r, g, b) in three slots; then texture, r, g, b, word or -1, ink."""

_FONT = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "D": "11110 10001 10001 10001 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "G": "01111 10000 10000 10111 10001 10001 01110",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "N": "10001 11001 10101 10011 10001 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110",
}
WORD_HEIGHT, WORD_MARGIN = 14, 3
"""A word stands centred above the lower edge; its strokes are two pixels wide."""
LEAST_SIDE = 48
"""The longest word has 46 pixels."""


def pack(scene: Scene) -> NDArray[np.float32]:
    """A scene as its row [ROW_WIDTH] float32."""
    row = np.full(ROW_WIDTH, -1.0, dtype=np.float32)
    for slot, thing in enumerate(scene.things):
        at = slot * FIELDS
        row[at : at + FIELDS] = (SHAPES.index(thing.shape), thing.x, thing.y, thing.radius, *thing.rgb)
    ground = scene.background
    ink = 20.0 if _luma(*ground.rgb) > 110 else 240.0
    word = -1 if scene.word is None else WORDS.index(scene.word)
    row[SLOTS * FIELDS :] = (TEXTURES.index(ground.texture), *ground.rgb, word, ink)
    return row


def wild_rows(rng: np.random.Generator, n: int, side: int) -> NDArray[np.float32]:
    """Rows [n, ROW_WIDTH] of scenes in any colour and place, overlapping and cut off: for the autoencoder only."""
    rows = np.empty((n, ROW_WIDTH), dtype=np.float32)
    things = rows[:, : SLOTS * FIELDS].reshape(n, SLOTS, FIELDS)
    things[..., 0] = rng.integers(-1, len(SHAPES), (n, SLOTS))
    things[..., 1:3] = rng.uniform(0, side, (n, SLOTS, 2))
    things[..., 3] = rng.uniform(8, side / 4, (n, SLOTS))
    things[..., 4:] = rng.uniform(0, 255, (n, SLOTS, 3))
    ground = rows[:, SLOTS * FIELDS :]
    ground[:, 0] = rng.integers(0, len(TEXTURES), n)
    ground[:, 1:4] = rng.uniform(0, 255, (n, 3))
    ground[:, 4] = rng.integers(-4, len(WORDS), n).clip(min=-1)
    ground[:, 5] = np.where(_luma(*ground[:, 1:4].T) > 110, 20.0, 240.0)
    return rows


def render(rows: Tensor, height: int, width: int) -> Tensor:
    """Rows [B, ROW_WIDTH] float32 -> pictures [B, 3, height, width] uint8, on the rows' device.

    Edges are one pixel soft. The same rows give the same picture on one device. Raises ValueError for a picture that
    is too small for a word.
    """
    require(
        width >= LEAST_SIDE and height >= LEAST_SIDE,
        "a picture of {} x {} is too small for the world's words; use at least {} pixels a side",
        width,
        height,
        LEAST_SIDE,
    )
    things = rows[:, : SLOTS * FIELDS].view(-1, SLOTS, FIELDS)
    ground = rows[:, SLOTS * FIELDS :]
    picture = _background(ground, height, width)
    cover = _cover(things, height, width)
    for slot in range(SLOTS):
        rgb = things[:, slot, 4:, None, None]
        picture = picture + cover[:, slot, None] * (rgb - picture)
    letters = _letters(height, width, rows.device)[ground[:, 4].long()][:, None]
    picture = picture + letters * (ground[:, 5, None, None, None] - picture)
    return picture.round().clamp(0, 255).to(torch.uint8)


def _cover(things: Tensor, height: int, width: int) -> Tensor:
    """How much of each pixel a thing covers: [B, SLOTS, FIELDS] -> [B, SLOTS, height, width] in 0..1.

    Every shape is drawn for every thing and one is kept: to ask which are needed would wait for the GPU.
    """
    shape, cx, cy, radius = (column[..., None, None] for column in things[..., :4].unbind(2))
    y = (torch.arange(height, device=things.device)[:, None] + 0.5 - cy) / radius
    x = (torch.arange(width, device=things.device)[None, :] + 0.5 - cx) / radius
    distance = torch.ones(1, device=things.device)
    for index, name in enumerate(SHAPES):
        distance = torch.where(shape == index, signed_distance(name, x, y) * radius, distance)
    return (0.5 - distance).clamp(0, 1)


def picture_of(scene: Scene) -> Image.Image:
    """One scene as an RGB picture, drawn on the CPU."""
    data = render(torch.from_numpy(pack(scene))[None], scene.height, scene.width)[0]
    return Image.fromarray(data.permute(1, 2, 0).contiguous().numpy())


def signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """About how far a point is outside the outline of a shape of radius 1 at the origin; y points down."""
    if shape == "circle":
        return torch.hypot(x, y) - 0.95
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.8
    if shape == "triangle":
        y = y - 0.15  # centred by its bounding box more than by its centroid
        return torch.maximum(y - 0.54, 0.866 * x.abs() - 0.5 * y - 0.54)
    if shape == "star":
        return _star(x, y)
    if shape == "ring":
        return (torch.hypot(x, y) - 0.75).abs() - 0.25
    if shape == "cross":
        ax, ay = x.abs(), y.abs()
        return torch.minimum(torch.maximum(ax - 0.33, ay - 0.98), torch.maximum(ay - 0.33, ax - 0.98))
    if shape == "diamond":
        return (x.abs() + y.abs() - 1.1) * math.sqrt(0.5)
    raise ValueError(f"shape {shape!r} is unknown; use one of {', '.join(SHAPES)}")


def _star(x: Tensor, y: Tensor, outer: float = 1.1, inner: float = 0.5) -> Tensor:
    """Five points, one up: the plane is folded onto half a point, whose edge is a line."""
    turn = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    angle = (angle - turn * (angle / turn).round()).abs()
    length = torch.hypot(x, y)
    px, py = length * angle.sin(), length * angle.cos()
    edge_x, edge_y = inner * math.sin(turn / 2), inner * math.cos(turn / 2) - outer
    distance: Tensor = (px * -edge_y + (py - outer) * edge_x) / math.hypot(edge_x, edge_y)
    return distance


def _background(ground: Tensor, height: int, width: int) -> Tensor:
    """[B, 6] -> [B, 3, height, width]: the colour, and towards grey by what the texture says."""
    texture, rgb = ground[:, 0].long(), ground[:, 1:4]
    patterns = _patterns(height, width, ground.device)[texture]
    toward = torch.where(_luma(*rgb.unbind(1)) > 110, -1.0, 1.0)
    return (rgb[:, :, None, None] + (toward[:, None, None] * patterns)[:, None]).clamp(0, 255)


@cache
def _patterns(height: int, width: int, device: torch.device) -> Tensor:
    """Levels to add, [textures, height, width]. They repeat with the autoencoder's 8 pixels, so they can be learnt."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    gradient = 60.0 * (y / max(height - 1, 1))
    striped = 28.0 * ((y // 4) % 2)
    checkered = 28.0 * ((y // 8 + x // 8) % 2)
    dotted = 32.0 * (torch.hypot(y % 8 - 3.5, x % 8 - 3.5) < 2.2)
    return torch.stack([torch.zeros(height, width), gradient, striped.float(), checkered.float(), dotted.float()]).to(
        device
    )


@cache
def _letters(height: int, width: int, device: torch.device) -> Tensor:
    """Masks of the words, [words + 1, height, width]; the last one, index -1, is empty."""
    masks = torch.zeros(len(WORDS) + 1, height, width)
    for index, word in enumerate(WORDS):
        glyphs = [[[int(bit) for bit in row] for row in _FONT[letter].split()] for letter in word]
        line = np.concatenate([np.pad(np.array(glyph), ((0, 0), (0, 1))) for glyph in glyphs], axis=1)[:, :-1]
        mask = torch.from_numpy(line.repeat(2, 0).repeat(2, 1)).float()
        top, left = height - WORD_MARGIN - WORD_HEIGHT, (width - mask.shape[1]) // 2
        masks[index, top : top + WORD_HEIGHT, left : left + mask.shape[1]] = mask
    return masks.to(device)


def _luma(r: Any, g: Any, b: Any) -> Any:
    """Brightness of numbers, arrays or tensors alike."""
    return 0.299 * r + 0.587 * g + 0.114 * b
