"""The public way to make a picture makes the same picture; and what is asked for."""

import pytest
import torch

import reference_impl
from bagel.model import Bagel
from bagel.pipeline import BagelPipeline, Guidance, ImageRequest
from bagel.probe import Probe
from bagel.tokenizer import Tokenizer
from bagel.transforms import Resize
from benchmarks.harness.environment import repository_root
from benchmarks.harness.picture_time import Public, request_of
from benchmarks.harness.stages import Watch
from benchmarks.harness.synthetic import TWIN, random_bagel

RULES = Resize(64, 32, 16), Resize(56, 28, 14)
GUIDED = ImageRequest("a fox", height=32, width=48, steps=3, guidance=Guidance(4.0, 1.5, (0.4, 1.0)))
UNGUIDED = ImageRequest("a fox", height=32, width=16, steps=3, guidance=Guidance(1.0))
EDIT = ImageRequest("darker", request_of("edit-32", 3).image, steps=3, guidance=request_of("edit-32", 3).guidance)


@pytest.fixture(scope="module")
def wide() -> Bagel:
    tokenizer = Tokenizer.load(repository_root() / "tests/data/bagel_oracle/checkpoint")
    return random_bagel(TWIN, reference_impl.OPS, tokenizer, torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("request_", [GUIDED, UNGUIDED, EDIT], ids=["guided", "unguided", "edit"])
def test_the_public_way_makes_the_same_picture(wide: Bagel, request_: ImageRequest) -> None:
    ours, public = (kind(wide, *RULES).generate(request_) for kind in (BagelPipeline, Public))
    # Between updates a latent is float32.
    assert (ours.final_latents - public.final_latents).abs().max() < 2e-6


def test_stages_of_the_public_way_are_told_apart(wide: Bagel) -> None:
    watch = Watch(lambda: None)
    Public(wide, *RULES).generate(EDIT, Probe(watch, inside=False))
    stages = watch.end()
    assert {"vision tower", "context: text", "denoising", "autoencoder, decoding"} <= stages.keys()
    assert stages["denoising"] > 0


def test_a_task_says_size_and_kind() -> None:
    made, edited = request_of("t2i-512", 50), request_of("edit-1024", 50)
    assert (made.height, made.width, made.image, made.steps) == (512, 512, None, 50)
    assert edited.image is not None
    assert edited.image.size == (1024, 1024)


@pytest.mark.parametrize("task", ["t2i", "t2i-big", "fox-512"])
def test_an_unknown_task_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match="is not t2i-512, t2i-1024, edit-512 or edit-1024"):
        request_of(task, 50)
