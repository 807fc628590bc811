"""The full-size autoencoder against the original; its 335 MB of weights are made anew from a seed."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from bagel.autoencoder import Autoencoder
from bagel.config import AutoencoderConfig
from bagel.transforms import to_image, to_pixels

FOLDER = Path(__file__).parents[1] / "data" / "full_ae"
LIMIT = 1e-5


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return load_file(FOLDER / "oracle.safetensors")


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    spec = importlib.util.spec_from_file_location("make_full_ae", FOLDER / "make_full_ae.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    facts = json.loads((FOLDER / "full_ae.json").read_text())
    weights, sha256 = maker.build(facts["keys"])
    assert sha256 == facts["weights_sha256"]
    with torch.device("meta"):
        model = Autoencoder(AutoencoderConfig())
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False)


@pytest.mark.slow
def test_encodes_as_the_original(autoencoder: Autoencoder, stored: dict[str, Tensor]) -> None:
    mean, logvar = autoencoder.posterior(stored["encode.input"][0])
    z = autoencoder.sample(mean, logvar, stored["encode.posterior_noise"][0].float())
    for name, ours in (("mean", mean), ("logvar", logvar), ("z", z)):
        assert (ours - stored[f"encode.{name}"][0]).abs().max() <= LIMIT, name


@pytest.mark.slow
def test_decodes_as_the_original(autoencoder: Autoencoder, stored: dict[str, Tensor]) -> None:
    raw = autoencoder.decode(stored["decode.latent"][0].float())
    assert (raw - stored["decode.raw"][0]).abs().max() <= LIMIT
    picture = np.array(to_image(raw)).astype(int)
    apart = np.abs(picture - np.array(Image.open(FOLDER / "decoded.png").convert("RGB")).astype(int))
    assert apart.max() <= 1
    assert (apart > 0).mean() <= 0.001


def test_input_picture_becomes_the_stored_pixels(stored: dict[str, Tensor]) -> None:
    assert torch.equal(to_pixels(Image.open(FOLDER / "input.png").convert("RGB")), stored["encode.input"][0])
