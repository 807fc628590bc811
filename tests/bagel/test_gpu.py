"""The same stored runs on a GPU, with both implementations: IEEE float32 to the same limits, and bfloat16."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bagel.pipeline import BagelPipeline, Guidance, ImageRequest
from benchmarks.harness.conformance import replay
from benchmarks.harness.storing import storing
from motbench.implementation import resolve
from reference_impl.contract import Kind

ORACLE = Path(__file__).parents[1] / "data" / "bagel_oracle"
GUIDED = ImageRequest("a red cat", height=32, width=48, steps=8, seed=1, guidance=Guidance(4.0, 1.5, (0.4, 1.0)))


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("case", ["t2i_base", "edit_base", "edit_default_transforms", "und_image", "t2i_think"])
def test_float32_reproduces_the_stored_run(impl: str, case: str) -> None:
    (result,) = replay(ORACLE, [case], *resolve(impl, "cuda", "float32"))
    assert [d for d in result.differences if not d.ok] == []
    assert result.ok


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["t2i_base", "t2i_rect", "edit_base", "edit_default_transforms"])
def test_half_precision_stays_near_the_stored_run(impl: str, dtype: str, case: str) -> None:
    (result,) = replay(ORACLE, [case], *resolve(impl, "cuda", dtype))
    assert [d for d in result.differences if not d.ok] == []
    assert result.ok


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_graph_changes_no_bit(impl: str, dtype: str) -> None:
    ops, device, precision = resolve(impl, "cuda", dtype)
    plain = BagelPipeline.from_checkpoint(ORACLE / "checkpoint", ops, device, precision)
    graphed = plain.with_graphs(2)
    for request in (
        GUIDED,
        replace(GUIDED, prompt="a red dog", seed=4),
        replace(GUIDED, prompt="dog", height=64),
        GUIDED,
    ):
        assert torch.equal(graphed.generate(request).v_t, plain.generate(request).v_t)


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_storing_keys_and_values_at_once_changes_no_bit(impl: str, dtype: str) -> None:
    """In graphs, with one pass (rows together) and with guidance (rows scattered)."""
    ops, device, precision = resolve(impl, "cuda", dtype)
    copying = replace(ops, qk_norm_rotary=storing(ops.qk_norm_rotary))
    made = [
        BagelPipeline.from_checkpoint(ORACLE / "checkpoint", one, device, precision).with_graphs(2).generate(GUIDED)
        for one in (ops, copying)
    ]
    assert torch.equal(made[0].v_t, made[1].v_t)


@pytest.mark.gpu
def test_a_batch_in_one_graph_makes_the_pictures_that_each_is_alone() -> None:
    pipeline = BagelPipeline.from_checkpoint(ORACLE / "checkpoint", *resolve("fused", "cuda", "float32")).with_graphs(2)
    requests = [GUIDED, replace(GUIDED, prompt="a dog and a blue hat", height=64, steps=5)]
    together = pipeline.generate_batch(requests)
    for one, request in zip(together, requests, strict=True):
        assert (one.final_latents - pipeline.generate(request).final_latents).abs().max() < 3e-5


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_a_quantised_picture_is_as_far_from_the_dense_one_as_the_references_on_a_cpu(impl: str, kind: Kind) -> None:
    def latents(impl: str, device: str, dtype: str, quantise: Kind | None) -> torch.Tensor:
        ops, place, precision = resolve(impl, device, dtype)
        folder = ORACLE / "checkpoint"
        return BagelPipeline.from_checkpoint(folder, ops, place, precision, quantise=quantise).generate(GUIDED).v_t

    exact = latents("reference", "cpu", "float32", None)
    ours, theirs = latents(impl, "cuda", "bfloat16", kind), latents("reference", "cpu", "bfloat16", kind)
    # Codes that flip where a norm is rounded the other way move a picture as far as others did.
    assert float((ours - exact).norm()) < 1.5 * float((theirs - exact).norm())


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_a_graph_of_quantised_layers_changes_no_bit(impl: str, kind: Kind) -> None:
    ops, device, precision = resolve(impl, "cuda", "bfloat16")
    plain = BagelPipeline.from_checkpoint(ORACLE / "checkpoint", ops, device, precision, quantise=kind)
    graphed = plain.with_graphs(2)
    for request in (GUIDED, replace(GUIDED, prompt="a red dog", seed=4), GUIDED):
        assert torch.equal(graphed.generate(request).v_t, plain.generate(request).v_t)
