"""Contexts and blocks."""

import pytest
import torch

from bagel.layers import Block
from bagel.pipeline import BagelPipeline
from bagel.probe import QUIET, Probe, Site
from bagel.transformer import Transformer

IDS = [5, 17, 3, 99, 42, 7, 250]


@pytest.fixture
def transformer(pipeline: BagelPipeline) -> Transformer:
    return pipeline.model.transformer


@torch.no_grad()
def test_text_in_two_passes_is_text_in_one(pipeline: BagelPipeline) -> None:
    model, empty = pipeline.model, pipeline.model.transformer.empty_context()
    once = model.add_text(empty, IDS, QUIET)
    twice = model.add_text(model.add_text(empty, IDS[:3], QUIET), IDS[3:], QUIET)
    assert once.position == twice.position == len(IDS)
    for a, b in zip(once.layers, twice.layers, strict=True):
        assert torch.allclose(a.k, b.k, atol=1e-5)
        assert torch.allclose(a.v, b.v, atol=1e-5)


@torch.no_grad()
def test_an_earlier_context_is_not_changed_by_a_later_pass(pipeline: BagelPipeline) -> None:
    model = pipeline.model
    early = model.add_text(model.transformer.empty_context(), IDS, QUIET)
    before = [kv.k.clone() for kv in early.layers]
    model.add_text(early, IDS, QUIET)
    assert early.n_rows == len(IDS)
    assert all(torch.equal(kv.k, k) for kv, k in zip(early.layers, before, strict=True))


def _image_block(transformer: Transformer, *, latent: bool) -> Block:
    return transformer.image_block(4, 9, latent=latent)


def test_latents_belong_to_the_image_expert_and_markers_to_the_text_expert(transformer: Transformer) -> None:
    route = _image_block(transformer, latent=True).route
    assert (route.text_rows.tolist(), route.image_rows.tolist()) == ([4, 5], [0, 1, 2, 3])


def test_a_kernel_may_read_the_latents_in_blocks(transformer: Transformer) -> None:
    assert _image_block(transformer, latent=True).route.image_first


def test_what_the_eye_sees_belongs_to_the_text_expert(transformer: Transformer) -> None:
    assert _image_block(transformer, latent=False).route.n_image == 0


def test_an_image_takes_one_position_and_sees_all_of_itself(transformer: Transformer) -> None:
    block = _image_block(transformer, latent=True)
    assert (block.advance, block.causal) == (1, False)
    assert bool((block.rotary.cos == block.rotary.cos[0]).all())


def test_text_takes_a_position_per_token_and_is_causal(transformer: Transformer) -> None:
    block = transformer.text_block(3, 5)
    assert (block.advance, block.causal) == (3, True)
    assert len(block.rotary.cos.unique(dim=0)) == 3


def test_text_beyond_the_last_position_is_refused(transformer: Transformer) -> None:
    with pytest.raises(ValueError, match="need 32769 positions but the model has max_position_embeddings = 32768"):
        transformer.text_block(2, 32767)


@torch.no_grad()
def test_a_probe_sees_every_layer_of_a_pass(pipeline: BagelPipeline) -> None:
    seen: list[Site] = []
    probe = Probe(lambda site, tensor: seen.append(site))
    pipeline.model.add_text(pipeline.model.transformer.empty_context(), IDS, probe)
    assert {site.layer for site in seen if site.op == "qkv"} == {0, 1}
    assert {site.phase for site in seen} == {"text"}
