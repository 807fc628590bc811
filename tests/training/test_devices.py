"""A training step mixes no devices and waits for no GPU, found without one: fake tensors elsewhere refuse both."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode  # no public name; torch.compile itself runs on it

from bagel.autoencoder import Autoencoder
from bagel.config import BagelConfig
from bagel.tokenizer import Tokenizer
from training.autoencoder import AutoencoderOptions, AutoencoderStage
from training.data import Drawers, Order
from training.loop import Run
from training.model import TINY, Trainee
from training.transformer import TransformerOptions, TransformerStage


class Seeds:
    """Stands for torch.Generator, of which there is none for this device."""

    def __init__(self, device: torch.device) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        """None is the default generator to fake tensors."""


NOBODY: Any = None
"""The default generator."""


@pytest.fixture
def elsewhere(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def embedding(ids: Tensor, weight: Tensor, *more: Any) -> Tensor:
        assert ids.device == weight.device  # the one operation that fake tensors let pass
        return looked_up(ids, weight, *more)

    looked_up = F.embedding
    monkeypatch.setattr(F, "embedding", embedding)
    monkeypatch.setattr(torch, "Generator", Seeds)
    return Run(tiny_folder, 1.0, None, 0, torch.device("meta"))


def test_a_step_of_the_autoencoder(elsewhere: Run, config: BagelConfig) -> None:
    table = Drawers(0).table(Order("scene", 64, 64, elsewhere.folder), "test", 4)()
    with FakeTensorMode(allow_non_fake_inputs=True):
        with elsewhere.device:
            model = Autoencoder(config.autoencoder)
        stage = AutoencoderStage(model, table, 64, AutoencoderOptions(batch=4, scenes=4), elsewhere)
        losses = stage.losses(stage.prepare(0), NOBODY)
        sum(losses.values(), torch.zeros((), device="meta")).backward()
    assert [loss.device.type for loss in losses.values()] == ["meta"] * 3


def test_a_step_of_the_transformer(elsewhere: Run, config: BagelConfig, words: Tokenizer) -> None:
    options = TransformerOptions(texts=4, edits=3, asked=4, block=16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with elsewhere.device:
            models = Trainee(config, TINY, words, 0), Autoencoder(config.autoencoder)
        stage = TransformerStage(models, 64, Drawers(0), options, elsewhere)
        losses = stage.losses(stage.prepare(0), NOBODY) | stage.losses(stage.prepare(3), NOBODY)
        sum(losses.values(), torch.zeros((), device="meta")).backward()
        stage.optimizer.prepare(1.0, 0)
        stage.optimizer.step()
    assert [loss.device.type for loss in losses.values()] == ["meta"] * 3
