"""Stage 1: the autoencoder, on scenes of the world and on wild ones in any colour and place."""

import json
from collections.abc import Callable
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


@dataclass(frozen=True)
class AutoencoderOptions:
    """batch pictures a step, half of them wild; `scenes` of each kind drawn once and used again and again.

    channels_last  lay the networks' tensors out by pixel and not by channel
    compiled       torch.compile of encoder and decoder
    """

    batch: int = 128
    scenes: int = 65536
    rate: float = 2e-3
    channels_last: bool = False
    compiled: bool = False


class AutoencoderStage:
    """Losses of pictures drawn on the device, from the seed and the step."""

    def __init__(self, model: Autoencoder, table: Table, side: int, options: AutoencoderOptions, run: Run) -> None:
        self.model, self.side, self.options, self.run = model, side, options, run
        wild = wild_rows(np.random.default_rng(run.seed), options.scenes, side)
        self.scenes, self.wild = table["scene"].to(run.device), torch.from_numpy(wild).to(run.device)
        self.optimizer = Optimizer(model, set(), 0.0, options.rate)
        self.half = torch.compile(half_of, dynamic=False) if options.compiled else half_of

    def prepare(self, step: int) -> str:
        """Every step is of one kind, and needs nothing of the host."""
        return "square"

    def losses(self, kind: str, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean absolute error, edge error and divergence of a batch."""
        return self.errors(self.pictures(generator), generator)

    def pictures(self, generator: torch.Generator) -> Tensor:
        """A batch, [B, 3, side, side] in -1..1."""
        n = self.options.batch // 2
        rows = [
            table[torch.randint(len(table), (n,), generator=generator, device=self.run.device)]
            for table in (self.scenes, self.wild)
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


def train_autoencoder(run: Run, sizes: Sizes, options: AutoencoderOptions, processes: int) -> bool:
    """Train, and when the plan is complete write ae.safetensors and ae_config.json; True if it is."""
    config = write_configs(run.folder, sizes)
    with Drawers(processes) as drawers:
        order = Order("scene", sizes.picture, sizes.picture, run.folder)
        drawing = drawers.table(order, f"ae/{run.seed}", options.scenes)
        torch.manual_seed(run.seed)
        model = Autoencoder(config.autoencoder).to(run.device)
        table = drawing()
    stage = AutoencoderStage(model, table, sizes.picture, options, run)
    describe(run, stage="autoencoder", parameters=sum(p.numel() for p in model.parameters()), **asdict(options))
    if not train(stage, run):
        return False
    stage.optimizer.use_average()
    _finish(model, table, sizes, run)
    return True


@torch.no_grad()
def _finish(model: Autoencoder, table: Table, sizes: Sizes, run: Run) -> None:
    """Measure the latents' mean and deviation and the error, in the precision of the file, and write both files."""
    for p in model.parameters():
        p.copy_(p.half().float())
    squares, means, variances = [], [], []
    for rows in torch.split(table["scene"][:1024], 64):
        pixels = to_range(render(rows.to(run.device), sizes.picture, sizes.picture))
        mean, logvar = model.encoder(pixels).chunk(2, dim=1)
        means.append(mean)
        variances.append(logvar.exp().mean())
        squares.append((model.decoder(mean).clamp(-1, 1) - pixels).square().mean((1, 2, 3)) / 4)
    values, psnr = torch.cat(means), -10 * torch.cat(squares).log10()
    deviation = (values.var() + torch.stack(variances).mean()).sqrt()
    scale, shift = 1 / float(deviation), float(values.mean())
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


def _edge_error(error: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours: what a blur gets wrong."""
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
