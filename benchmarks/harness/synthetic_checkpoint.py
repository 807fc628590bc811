"""Writing a checkpoint folder in the published format with seeded random weights, of any size, in little memory."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bagel.autoencoder import Autoencoder
from bagel.config import BagelConfig
from bagel.latents import LatentAdapter
from bagel.vision import Eye
from bagel.weights import Shape, language_shapes, module_shapes
from benchmarks.harness.synthetic import EYE_SIDE, LATENT_SIDE, Draw

SHARD_BYTES = 1 << 31
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


def write_checkpoint(
    folder: Path,
    config: BagelConfig,
    tokenizer: Path,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
) -> Iterator[tuple[int, int]]:
    """Write everything that `Bagel.load` reads; yields after each file how many bytes of how many are written.

    tokenizer: a folder whose tokenizer files are copied. Weights are bfloat16, in shards of about `shard_bytes` (what
    is held in memory) and with an index; the autoencoder's are float32. threads: that draw the tensors of a shard, and
    change no byte; None: as many as Python takes for this machine. Raises FileExistsError for a folder that holds
    something, so that nothing of an older checkpoint can mix in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if found := next(folder.iterdir(), None):
        raise FileExistsError(f"{folder} holds {found.name}; give a new or an empty folder")
    for name, value in _configs(config).items():
        (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    for name in TOKENIZER:
        shutil.copyfile(tokenizer / name, folder / name)
    with torch.device("meta"):
        latents = LatentAdapter(config.latent_width, config.language.hidden, LATENT_SIDE**2)
        eye, autoencoder = Eye(config.vision, config.language.hidden, EYE_SIDE**2), Autoencoder(config.autoencoder)
    model = language_shapes(config.language) | module_shapes(latents) | module_shapes(eye)
    small = module_shapes(autoencoder)
    total, done = 4 * _values(small) + 2 * _values(model), 0
    with ThreadPoolExecutor(threads) as pool:
        for stem, shapes, dtype in (("ae", small, torch.float32), ("ema", model, torch.bfloat16)):
            for tensors in _write_shards(folder, stem, shapes, Drawing(dtype, seed, pool), shard_bytes):
                done += tensors
                yield done, total


@dataclass(frozen=True)
class Drawing:
    """How tensors are drawn: each from its own generator, so that nothing depends on which thread draws it when."""

    dtype: torch.dtype
    seed: int
    pool: ThreadPoolExecutor

    def tensors(self, shapes: dict[str, Shape]) -> dict[str, Tensor]:
        """All of these at once, in their order; PyTorch draws without Python's lock."""
        return dict(zip(shapes, self.pool.map(self._one, shapes, shapes.values()), strict=True))

    def _one(self, name: str, shape: Shape) -> Tensor:
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return _drawn(Draw(torch.device("cpu"), self.dtype, int.from_bytes(digest[:4])), name, shape)


def _write_shards(
    folder: Path, stem: str, shapes: dict[str, Shape], drawing: Drawing, shard_bytes: int
) -> Iterator[int]:
    """One file if it is small, else shards and their index, written last. Yields the bytes of each file's tensors."""
    shards = _divided(shapes, drawing.dtype.itemsize, shard_bytes)
    names = [f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else [f"{stem}.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        partial = folder / f".{name}"
        save_file(drawing.tensors({one: shapes[one] for one in shard}), partial)
        partial.rename(folder / name)
        yield sum(_values({one: shapes[one]}) for one in shard) * drawing.dtype.itemsize
    if len(shards) > 1:
        index = {"weight_map": {one: name for name, shard in zip(names, shards, strict=True) for one in shard}}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _divided(shapes: dict[str, Shape], itemsize: int, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, shape in shapes.items():
        size = _values({name: shape}) * itemsize
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _values(shapes: dict[str, Shape]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def _drawn(draw: Draw, name: str, shape: Shape) -> Tensor:
    """Gains near 1, biases near 0, weights that keep the size of what they multiply."""
    if len(shape) > 1:
        return draw.normal(*shape, deviation=torch.Size(shape[1:]).numel() ** -0.5)
    return draw.normal(*shape, deviation=0.02) if name.endswith("bias") else draw.gain(*shape)


def _configs(config: BagelConfig) -> dict[str, dict[str, object]]:
    """The JSON files, with what `BagelConfig.read` wants."""
    language, eye, coder = config.language, config.vision, config.autoencoder
    return {
        "config.json": {"latent_patch_size": config.latent_patch, "connector_act": "gelu_pytorch_tanh"},
        "llm_config.json": {
            "hidden_act": "silu",
            "hidden_size": language.hidden,
            "intermediate_size": language.intermediate,
            "num_hidden_layers": language.layers,
            "num_attention_heads": language.heads,
            "num_key_value_heads": language.kv_heads,
            "vocab_size": language.vocab,
            "max_position_embeddings": language.max_positions,
            "rms_norm_eps": language.eps,
            "rope_theta": language.rope_theta,
        },
        "vit_config.json": {
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": eye.hidden,
            "intermediate_size": eye.intermediate,
            "num_hidden_layers": eye.layers + 1,  # the file says one more than upstream uses
            "num_attention_heads": eye.heads,
            "patch_size": eye.patch,
            "num_channels": eye.channels,
        },
        "ae_config.json": {
            "in_channels": coder.in_channels,
            "out_ch": coder.out_channels,
            "ch": coder.width,
            "ch_mult": list(coder.width_factors),
            "num_res_blocks": coder.blocks,
            "z_channels": coder.latent_channels,
            "scale_factor": coder.scale,
            "shift_factor": coder.shift,
        },
    }
