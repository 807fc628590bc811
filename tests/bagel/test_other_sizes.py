"""Nothing is fitted to the stored checkpoint: a made-up one that differs in every dimension runs all three jobs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import reference_impl
from bagel.autoencoder import Autoencoder
from bagel.config import BagelConfig
from bagel.latents import LatentAdapter
from bagel.pipeline import BagelPipeline, Guidance, ImageRequest, TextRequest
from bagel.transforms import Resize
from bagel.vision import Eye
from bagel.weights import Shape, language_shapes, module_shapes

LLM = {
    "hidden_size": 120,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 580,
    "max_position_embeddings": 400,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
}
VIT = {
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 10,
}
AE = {
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [2, 1, 1],
    "num_res_blocks": 2,
    "z_channels": 6,
    "scale_factor": 0.5,
    "shift_factor": 0.0,
}
LATENT_SIDE, VIT_SIDE = 12, 9
STRIDE = 8  # 4 pixels per latent position, 2 positions per token


def _write(path: Path, shapes: dict[str, Shape], generator: torch.Generator) -> None:
    save_file({name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}, path)


@pytest.fixture(scope="module")
def other(oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> BagelPipeline:
    folder, generator = tmp_path_factory.mktemp("other"), torch.Generator().manual_seed(0)
    for name, value in (("llm_config", LLM), ("vit_config", VIT), ("ae_config", AE)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "tokenizer.json").write_bytes((oracle / "checkpoint" / "tokenizer.json").read_bytes())
    config = BagelConfig.read(folder)
    hidden = config.language.hidden
    with torch.device("meta"):
        latents = LatentAdapter(config.latent_width, hidden, LATENT_SIDE**2)
        eye, autoencoder = Eye(config.vision, hidden, VIT_SIDE**2), Autoencoder(config.autoencoder)
    shapes = language_shapes(config.language) | module_shapes(latents) | module_shapes(eye)
    _write(folder / "ema.safetensors", shapes, generator)
    _write(folder / "ae.safetensors", module_shapes(autoencoder), generator)
    pipeline = BagelPipeline.from_checkpoint(folder, reference_impl.OPS)
    return BagelPipeline(pipeline.model, Resize(64, 32, STRIDE), Resize(60, 20, 10))


def test_text_to_image_at_another_stride(other: BagelPipeline) -> None:
    made = other.generate(ImageRequest("a cat", height=40, width=24, steps=3))
    assert made.image.size == (24, 40)
    assert made.final_latents.shape == (15, 24)


def test_editing_with_thinking_and_both_guidances(other: BagelPipeline) -> None:
    guidance = Guidance(4.0, 2.0, (0.0, 1.0), "text_channel")
    picture = Image.effect_mandelbrot((50, 30), (-2, -1, 1, 1), 20)
    made = other.generate(
        ImageRequest("darker", image=picture, steps=3, think=True, max_think_tokens=4, guidance=guidance)
    )
    assert made.image.size == other.vae_resize.size(50, 30)
    assert made.text is not None


def test_understanding_a_picture(other: BagelPipeline) -> None:
    answer = other.understand(TextRequest("what?", Image.new("RGB", (50, 30)), max_tokens=5))
    assert 1 <= len(answer.ids) <= 5


def test_the_table_of_this_checkpoint_limits_the_size(other: BagelPipeline) -> None:
    with pytest.raises(ValueError, match="width 104 needs 13 tokens along one side but the checkpoint has positions"):
        other.generate(ImageRequest("a cat", height=8, width=104))
