"""Stage 1: the autoencoder, on scenes of the world and on wild ones in any colour and place.

Its decoder can be trained further afterwards, also after stage 2: the latents, which stage 2 has learnt, stay.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from bagel.autoencoder import Autoencoder
from training.data import Drawers, Order, Table
from training.files import append_json, save_tensors
from training.loop import Run, describe, train
from training.model import Sizes, write_configs
from training.optim import Optimizer
from training.render import render, wild_rows

EDGES, KL = 0.5, 1e-3
"""Weights beside the mean absolute error: of the differences between neighbours, and of the divergence per latent."""
OUTLINES = 4.0
"""How much more an error within two pixels of an edge weighs to the decoder alone: outlines decide what a shape is."""


@dataclass(frozen=True)
class AutoencoderOptions:
    """batch pictures a step, a share of them wild; `scenes` of each kind drawn once and used again and again.

    channels_last  lay the networks' tensors out by pixel and not by channel
    compiled       torch.compile of encoder and decoder
    """

    batch: int = 128
    scenes: int = 65536
    rate: float = 2e-3
    wild: float = 0.5
    channels_last: bool = False
    compiled: bool = False


class AutoencoderStage:
    """Losses of pictures drawn on the device, from the seed and the step."""

    def __init__(self, model: Autoencoder, table: Table, side: int, options: AutoencoderOptions, run: Run) -> None:
        self.model, self.side, self.options, self.run = model, side, options, run
        wild = wild_rows(np.random.default_rng(run.seed), options.scenes, side)
        self.scenes, self.wild = table["scene"].to(run.device), torch.from_numpy(wild).to(run.device)
        self.optimizer = Optimizer(self.trained(), set(), 0.0, options.rate)
        self.half = torch.compile(half_of, dynamic=False) if options.compiled else half_of

    def trained(self) -> nn.Module:
        """What the steps change."""
        return self.model

    def prepare(self, step: int) -> str:
        """Every step is of one kind, and needs nothing of the host."""
        return "square"

    def losses(self, kind: str, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean absolute error, edge error and divergence of a batch."""
        return self.errors(self.pictures(generator), generator)

    def pictures(self, generator: torch.Generator) -> Tensor:
        """A batch, [B, 3, side, side] in -1..1."""
        wild = round(self.options.batch * self.options.wild)
        rows = [
            table[torch.randint(len(table), (n,), generator=generator, device=self.run.device)]
            for table, n in ((self.scenes, self.options.batch - wild), (self.wild, wild))
        ]
        pixels = to_range(render(torch.cat(rows), self.side, self.side))
        return pixels.contiguous(memory_format=torch.channels_last) if self.options.channels_last else pixels

    def errors(self, pixels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss on a batch."""
        mean, logvar = quickly(self.model.encoder, pixels, self.half).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        decoded = quickly(self.model.decoder, mean + torch.exp(0.5 * logvar) * noise, self.half)
        return {
            "l1": F.l1_loss(decoded, pixels),
            "edges": EDGES * _edge_error(decoded - pixels),
            "kl": KL * 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(),
        }


class DecoderStage(AutoencoderStage):
    """Losses of the decoder alone, on the latents of an encoder that stays as it is."""

    def trained(self) -> nn.Module:
        """The decoder; the rest of a loaded autoencoder is frozen."""
        return self.model.decoder.requires_grad_(True)

    def errors(self, pixels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss on a batch."""
        with torch.no_grad():
            mean, logvar = quickly(self.model.encoder, pixels, self.half).chunk(2, dim=1)
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        error = quickly(self.model.decoder, mean + torch.exp(0.5 * logvar) * noise, self.half) - pixels
        weight = 1 + OUTLINES * near_edges(pixels)
        return {"l1": (weight * error.abs()).mean() / weight.mean(), "edges": EDGES * _edge_error(error)}


def train_autoencoder(run: Run, sizes: Sizes, options: AutoencoderOptions, processes: int) -> bool:
    """Train, and when the plan is complete write ae.safetensors and ae_config.json; True if it is."""
    config = write_configs(run.folder, sizes)
    torch.manual_seed(run.seed)
    model = Autoencoder(config.autoencoder).to(run.device)
    table = _scenes(run, sizes, options, processes)
    stage = AutoencoderStage(model, table, sizes.picture, options, run)
    describe(run, stage="autoencoder", parameters=sum(p.numel() for p in model.parameters()), **asdict(options))
    if not train(stage, run):
        return False
    stage.optimizer.use_average()
    _finish(model, table, sizes, run, _latent_figures(model, table, sizes, run))
    return True


def train_decoder(run: Run, autoencoder: Path, sizes: Sizes, options: AutoencoderOptions, processes: int) -> bool:
    """Train a finished autoencoder's decoder further, into another folder; True if the plan is complete.

    Raises FileNotFoundError or ValueError for an autoencoder that is not finished or of other sizes.
    """
    model = load_autoencoder(autoencoder, sizes, run.device)
    write_configs(run.folder, sizes, model.scale, model.shift)
    table = _scenes(run, sizes, options, processes)
    stage = DecoderStage(model, table, sizes.picture, options, run)
    describe(run, stage="decoder", parameters=sum(p.numel() for p in model.decoder.parameters()), **asdict(options))
    if not train(stage, run):
        return False
    stage.optimizer.use_average()
    _finish(model, table, sizes, run, (model.scale, model.shift))
    return True


def _scenes(run: Run, sizes: Sizes, options: AutoencoderOptions, processes: int) -> Table:
    with Drawers(processes) as drawers:
        order = Order("scene", sizes.picture, sizes.picture, run.folder)
        return drawers.table(order, f"ae/{run.seed}", options.scenes)()


def _measured(table: Table, sizes: Sizes, run: Run) -> Iterator[Tensor]:
    """The first 1024 scenes, as pixels."""
    for rows in torch.split(table["scene"][:1024], 64):
        yield to_range(render(rows.to(run.device), sizes.picture, sizes.picture))


@torch.no_grad()
def _latent_figures(model: Autoencoder, table: Table, sizes: Sizes, run: Run) -> tuple[float, float]:
    """(scale, shift) that bring the latents to deviation 1 and mean 0."""
    means, variances = [], []
    for pixels in _measured(table, sizes, run):
        mean, logvar = model.encoder(pixels).chunk(2, dim=1)
        means.append(mean)
        variances.append(logvar.exp().mean())
    values = torch.cat(means)
    deviation = (values.var() + torch.stack(variances).mean()).sqrt()
    return 1 / float(deviation), float(values.mean())


@torch.no_grad()
def _finish(model: Autoencoder, table: Table, sizes: Sizes, run: Run, figures: tuple[float, float]) -> None:
    """Measure the error in the precision of the file, and write both files."""
    for p in model.parameters():
        p.copy_(p.half().float())
    squares = []
    for pixels in _measured(table, sizes, run):
        mean, _ = model.encoder(pixels).chunk(2, dim=1)
        squares.append((model.decoder(mean).clamp(-1, 1) - pixels).square().mean((1, 2, 3)) / 4)
    psnr = -10 * torch.cat(squares).log10()
    scale, shift = figures
    write_configs(run.folder, sizes, scale, shift)
    save_tensors(run.folder / "ae.safetensors", {n: t.half() for n, t in model.state_dict().items()})
    result = {"psnr_median": float(psnr.median()), "psnr_worst": float(psnr.min()), "scale": scale, "shift": shift}
    append_json(run.folder / "log.jsonl", result)
    print(result)


def load_autoencoder(folder: Path, sizes: Sizes, device: torch.device) -> Autoencoder:
    """A finished autoencoder, frozen, from ae.safetensors and ae_config.json.

    Raises FileNotFoundError if the stage has not come to its end, ValueError for one of other sizes.
    """
    path = folder / "ae.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no ae.safetensors; run the stage autoencoder to its end first")
    found = json.loads((folder / "ae_config.json").read_text(encoding="utf-8"))
    model = Autoencoder(sizes.autoencoder(found["scale_factor"], found["shift_factor"]))
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model's sizes ({error}); was it trained with --tiny?") from error
    return model.requires_grad_(False).to(device)


def to_range(pictures: Tensor) -> Tensor:
    """uint8 -> float32 in -1..1, as bagel.transforms.to_pixels."""
    return (pictures.float() / 255 - 0.5) / 0.5


def half_of(half: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """An encoder or decoder with other weights."""
    out: Tensor = functional_call(half, weights, x)
    return out


def quickly(half: nn.Module, x: Tensor, call: Callable[..., Tensor] = half_of) -> Tensor:
    """An encoder or decoder, on a GPU in bfloat16, norms too: autocast would widen every norm, and memory decides.

    call: `half_of`, or what torch.compile makes of it. The weights are laid out as x is.
    """
    dtype = torch.bfloat16 if x.is_cuda else torch.float32
    by_pixel = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    layouts = {4: torch.channels_last} if by_pixel else {}
    weights = {
        name: p.to(dtype, memory_format=layouts.get(p.ndim, torch.preserve_format))
        for name, p in half.named_parameters()
    }
    return call(half, weights, x.to(dtype)).float()


def near_edges(pixels: Tensor) -> Tensor:
    """[B, 1, H, W]: within two pixels of a difference between neighbours that difference, at most 1; elsewhere 0."""
    change = torch.zeros_like(pixels[:, :1])
    change[:, :, 1:] += pixels.diff(dim=2).abs().amax(1, keepdim=True)
    change[:, :, :, 1:] += pixels.diff(dim=3).abs().amax(1, keepdim=True)
    return F.max_pool2d(change.clamp(max=1.0), 5, 1, 2)


def _edge_error(error: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours: what a blur gets wrong."""
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
