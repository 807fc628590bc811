"""One tiny model, written once, for all training tests."""

from pathlib import Path

import pytest
import torch

from bagel.autoencoder import Autoencoder
from bagel.config import BagelConfig
from bagel.model import Bagel
from bagel.tokenizer import Tokenizer
from reference_impl import OPS
from training.model import TINY, Trainee, write_configs


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_configs(folder, TINY)
    return folder


@pytest.fixture(scope="session")
def config(tiny_folder: Path) -> BagelConfig:
    return BagelConfig.read(tiny_folder)


@pytest.fixture(scope="session")
def words(tiny_folder: Path) -> Tokenizer:
    return Tokenizer.load(tiny_folder)


@pytest.fixture
def trainee(config: BagelConfig, words: Tokenizer) -> Trainee:
    trainee = Trainee(config, TINY, words, seed=0)
    generator = torch.Generator().manual_seed(1)
    for p in trainee.parameters():  # gains of exactly 1 and biases of 0 would hide a mix-up of the experts
        if p.requires_grad:
            p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return trainee


@pytest.fixture
def model(trainee: Trainee, words: Tokenizer) -> Bagel:
    torch.manual_seed(0)
    autoencoder = Autoencoder(trainee.config.autoencoder)
    return Bagel(trainee.config, words, trainee.transformer(OPS), trainee.latents, trainee.eye, autoencoder)
