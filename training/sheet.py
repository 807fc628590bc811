"""A sheet of pictures to look at: held-out prompts and edits, sampled in batches from a stage's running average."""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor

from bagel.autoencoder import Autoencoder
from bagel.latents import Grid
from bagel.tokenizer import Tokenizer
from training.autoencoder import load_autoencoder, to_range
from training.edits import Edit, draw_edit
from training.flow import Prompted, Source, mixed, sample
from training.model import Sizes, Trainee
from training.render import pack, render
from training.transformer import averaged, encode, for_eye
from training.world import caption, draw, held_out

COLUMNS = 8


@torch.no_grad()
def write_sheet(trainee: Trainee, autoencoder: Autoencoder, words: Tokenizer, size: int, path: Path) -> list[str]:
    """Two rows of text-to-image, then two of edits with the picture before above each; returns the texts in order.

    The texts are held out; the same ones each time.
    """
    rng, device = Random("sheet"), trainee.embedding.device
    generator = torch.Generator(device).manual_seed(0)
    captions: list[str] = []
    while len(captions) < 2 * COLUMNS:
        if held_out(found := caption(draw(rng, size, size))):
            captions.append(found)
    edits: list[Edit] = []
    while len(edits) < 2 * COLUMNS:
        if held_out((edit := draw_edit(rng, size, size)).key):
            edits.append(edit)
    before = torch.stack([torch.from_numpy(pack(edit.before)) for edit in edits]).to(device)
    pictures = render(before, size, size)
    grid = Grid(size // 16, size // 16)
    source = Source(encode(autoencoder, pictures, generator), to_range(for_eye(pictures)))
    noise = torch.randn(2 * COLUMNS, *source.tokens.shape[1:], generator=generator, device=device)
    with mixed(device):
        drawn = sample(trainee, Prompted(grid, *_padded(words, captions, device)), noise)
        texts = [edit.instruction for edit in edits]
        edited = sample(trainee, Prompted(grid, *_padded(words, texts, device), source), noise)
    made, changed = (decode(autoencoder, tokens, grid) for tokens in (drawn, edited))
    halves = (slice(0, COLUMNS), slice(COLUMNS, None))
    rows = [made[half] for half in halves] + [p[half] for half in halves for p in (pictures, changed)]
    data = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    Image.fromarray(data.permute(1, 2, 0).contiguous().cpu().numpy()).save(path)
    return captions + [edit.key for edit in edits]


def decode(autoencoder: Autoencoder, tokens: Tensor, grid: Grid) -> Tensor:
    """Image tokens [B, n, width] -> uint8 [B, 3, H, W], as bagel's pipeline does one by one."""
    latents = torch.stack([grid.unpack(one, 2) for one in tokens.float()])
    raw = autoencoder.decoder(latents / autoencoder.scale + autoencoder.shift)
    pixels: Tensor = ((raw * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8)
    return pixels


def _padded(words: Tokenizer, texts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    ids = [words.prompt(text) for text in texts]
    width = -(-max(map(len, ids)) // 8) * 8
    padded = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=device)
    return padded, torch.tensor([len(row) for row in ids], device=device)


def write_sheet_of_state(state: Path, autoencoder: Path, sizes: Sizes, device: str, out: Path) -> list[str]:
    """`write_sheet` of the running average in a transformer's state. Raises FileNotFoundError if there is none."""
    place = torch.device(device)
    frozen = load_autoencoder(autoencoder, sizes, place)
    with TemporaryDirectory() as folder:
        trainee, words = averaged(state, autoencoder, sizes, Path(folder))
    return write_sheet(trainee.to(place), frozen, words, sizes.picture, out)
