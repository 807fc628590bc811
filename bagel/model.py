"""The model: its parts loaded from a folder, and each kind of pass that extends a context."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bagel.autoencoder import Autoencoder
from bagel.config import BagelConfig
from bagel.experts import Precision
from bagel.latents import Grid, LatentAdapter
from bagel.layers import Block
from bagel.parallel import check_ranks
from bagel.probe import Probe
from bagel.tokenizer import Tokenizer
from bagel.transformer import Context, Transformer
from bagel.vision import Eye
from bagel.weights import Reading, Shape, TensorFiles, Told, fill, find_files, module_shapes
from reference_impl.contract import Kind, MoTOps, require
from reference_impl.parallel import ALONE, Parallel


@dataclass(frozen=True)
class Bagel:
    """All parts of one checkpoint, on one device. The autoencoder is float32, the rest in the dtype asked for."""

    config: BagelConfig
    tokenizer: Tokenizer
    transformer: Transformer
    latents: LatentAdapter
    eye: Eye
    autoencoder: Autoencoder

    @classmethod
    def load(
        cls,
        folder: Path,
        ops: MoTOps,
        device: torch.device,
        dtype: torch.dtype,
        parallel: Parallel = ALONE,
        told: Told = lambda done, total: None,
        quantise: Kind | None = None,
    ) -> "Bagel":
        """Read a published BAGEL folder, or one that `motbench quantise` wrote; `told` hears how many bytes of how many
        have been read. quantise: what the linear layers of a dense one are kept in.

        Raises OSError, ValueError or NotImplementedError saying what is wrong.
        """
        config = BagelConfig.read(folder)
        check_ranks(config.language, parallel)
        tokenizer = Tokenizer.load(folder)
        require(
            tokenizer.largest_id < config.language.vocab,
            "{}: the tokenizer's largest id is {} but vocab_size is {}; the files do not belong together",
            folder,
            tokenizer.largest_id,
            config.language.vocab,
        )
        ae_files, model_files = find_files(folder, ("ae",)), find_files(folder, ("ema", "model"))
        reading = Reading([*ae_files, *model_files], told)
        with torch.device("meta"):
            autoencoder = Autoencoder(config.autoencoder)
        with TensorFiles(ae_files, torch.float32, device, reading) as files:
            files.check(module_shapes(autoencoder))
            fill(autoencoder, files)
        with TensorFiles(model_files, dtype, device, reading) as files:
            precision = Precision.of(files, config.language, quantise)
            precision.check_ops(ops)
            latents, eye = _modules(config, files.shapes)
            files.check(precision.shapes(config.language) | module_shapes(latents) | module_shapes(eye))
            fill(latents, files)
            fill(eye, files)
            transformer = Transformer.load(files, config.language, ops, parallel, precision)
        return cls(config, tokenizer, transformer, latents, eye, autoencoder)

    @property
    def latent_side(self) -> int:
        """Image tokens that fit along one side of a picture (upstream's max_latent_size)."""
        return self.latents.latent_pos_embed.side

    @property
    def device(self) -> torch.device:
        """Where every part is."""
        return self.transformer.device

    def encode(self, pixels: Tensor, noise: Tensor, probe: Probe) -> Tensor:
        """Pixels [3, H, W] in -1..1 -> a sample [C, H/8, W/8] of the autoencoder's posterior, float32."""
        probe = probe.at(phase="encode")
        pixels = pixels.to(self.device)
        mean, logvar = self.autoencoder.posterior(pixels)
        latent = self.autoencoder.sample(mean, logvar, noise)
        for op, tensor in (("pixels", pixels), ("mean", mean), ("logvar", logvar), ("latent", latent)):
            probe(op, tensor)
        return latent

    def add_text(self, context: Context, ids: list[int], probe: Probe) -> Context:
        """The context after a text [bos, ..., eos]."""
        block = self.transformer.text_block(len(ids), context.position)
        return self.transformer.run(self.transformer.embed(ids), block, context, probe.at(phase="text"))[1]

    def add_vit_image(self, context: Context, pixels: Tensor, grid: Grid, probe: Probe) -> Context:
        """The context after what the eye sees: pixels [3, H, W]."""
        markers = self.markers()
        x = torch.cat([markers[:1], self.eye(pixels, grid, probe.at(phase="vision")), markers[1:]])
        probe.at(phase="vit")("sequence", x)
        block = self.transformer.image_block(grid.n_tokens, context.position, latent=False)
        return self.transformer.run(x, block, context, probe.at(phase="vit"))[1]

    def add_latent_image(self, context: Context, latent: Tensor, grid: Grid, probe: Probe) -> Context:
        """The context after a clean latent [C, H/8, W/8]: image tokens at t = 0."""
        probe = probe.at(phase="latent")
        tokens = grid.pack(latent, self.config.latent_patch)
        x = self.embed_latents(tokens, torch.zeros(()), grid, probe)
        return self.transformer.run(x, self.latent_block(context, grid), context, probe)[1]

    def latent_block(self, context: Context, grid: Grid) -> Block:
        """The block [image tokens, start, end] behind `context`; see `Transformer.image_block`."""
        return self.transformer.image_block(grid.n_tokens, context.position, latent=True)

    def embed_latents(self, tokens: Tensor, t: Tensor, grid: Grid, probe: Probe) -> Tensor:
        """Image tokens [n, latent width] at time t [] -> [n + 2, H], the rows of `latent_block`."""
        embedded = self.latents.embed(tokens, t, grid.positions(self.latent_side, self.device), probe)
        return torch.cat([embedded, self.markers()])

    def velocity(self, x: Tensor, block: Block, context: Context, probe: Probe) -> Tensor:
        """One denoising pass: x [n + 2, H] -> velocity [n, latent width]. The context stays as it is."""
        hidden, _ = self.transformer.run(x, block, context, probe)
        normed = self.transformer.final_norm(hidden, block.route)
        probe("final_norm", normed)
        out: Tensor = self.latents.llm2vae(normed)
        probe("llm2vae", out)
        velocity = out[: block.route.n_image]
        probe("velocity", velocity)
        return velocity

    def write(self, context: Context, max_tokens: int, probe: Probe) -> list[int]:
        """Greedy text behind `context`: [bos, ...] without a final eos, after at most max_tokens passes."""
        ids: list[int] = []
        token = self.tokenizer.bos
        while len(ids) < max_tokens and token != self.tokenizer.eos:
            here = probe.at(phase="decode", step=len(ids))
            ids.append(token)
            block = self.transformer.text_block(1, context.position)
            hidden, context = self.transformer.run(self.transformer.embed([token]), block, context, here)
            logits = self.transformer.logits(hidden)[0]
            here("logits", logits)
            token = int(self.transformer.parallel.first(logits.argmax()))
        return ids

    def markers(self) -> Tensor:
        """[2, H]: the start and the end of an image."""
        return self.transformer.embed([self.tokenizer.image_start, self.tokenizer.image_end])


def _modules(config: BagelConfig, shapes: Mapping[str, Shape]) -> tuple[LatentAdapter, Eye]:
    """The modules beside the language model, on the meta device. The files' row counts size the position tables."""
    rows = []
    for name in ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"):
        shape = shapes.get(name, (0,))
        require(
            math.isqrt(shape[0]) ** 2 == shape[0],
            "{} has shape {}; a position table must be [side^2, {}]",
            name,
            list(shape),
            config.language.hidden,
        )
        rows.append(shape[0])
    latent_rows, vit_rows = rows
    hidden = config.language.hidden
    with torch.device("meta"):
        return LatentAdapter(config.latent_width, hidden, latent_rows), Eye(config.vision, hidden, vit_rows)
