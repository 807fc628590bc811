"""The modules: what ranks compute together is what one computes, with the reference's and with the fused ops."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mot_impl.layers
import reference_impl
from reference_impl import layers
from reference_impl.contract import Experts, QKNorm, Route
from reference_impl.parallel import Parallel

RANKS = [(size, rank) for size in (1, 2, 4) for rank in range(size)]
every_rank = pytest.mark.parametrize(("size", "rank"), RANKS, ids=[f"{rank} of {size}" for size, rank in RANKS])
ROUTE = Route(torch.tensor([4, 0, 2, 1, 3]), 2)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@every_rank
@pytest.mark.parametrize("half", ["attention", "mlp"])
def test_half_layer_is_the_whole_one(results: Path, size: int, rank: int, half: str) -> None:
    expected = load_file(results / "layers-whole.safetensors")[half]
    ours = load_file(results / f"layers-{size}-add-{rank}.safetensors")[half]
    assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-5)


@every_rank
@pytest.mark.parametrize(("half", "bias"), [("attention", "o_bias"), ("mlp", "down_bias")])
def test_skipped_bias_is_returned_apart(results: Path, size: int, rank: int, half: str, bias: str) -> None:
    expected = load_file(results / "layers-whole.safetensors")
    ours = load_file(results / f"layers-{size}-skip-{rank}.safetensors")
    assert torch.allclose(ours[half], expected[f"{half}_unbiased"], rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[bias], expected[bias])


def test_column_layers_return_their_part_of_a_skipped_bias() -> None:
    merged = Experts(draw(2, 8, 3), draw(2, 8))
    layer = layers.MoTMergedColumnParallelLinear(reference_impl.OPS, merged, (4, 4), Parallel(1, 2), skip_bias_add=True)
    _, bias = layer(draw(5, 3), ROUTE)
    assert bias is not None
    assert merged.bias is not None
    assert torch.equal(bias, merged.bias[:, [2, 3, 6, 7]])


def test_row_layer_without_bias_leaves_none_to_the_caller() -> None:
    y, bias = layers.MoTRowParallelLinear(reference_impl.OPS, Experts(draw(2, 4, 3)))(draw(5, 3), ROUTE)
    assert y.shape == (5, 4)
    assert bias is None


@pytest.mark.parametrize("parallel", [Parallel(), Parallel(1, 2), Parallel(1, 2, "sequence")], ids=str)
def test_fused_modules_are_the_reference_ones(parallel: Parallel) -> None:
    x, norm = draw(5, 16), QKNorm(draw(2, 4), draw(2, 4), 4, 2, 1e-6)
    qkv, gate_up = Experts(draw(2, 32, 16), draw(2, 32)), Experts(draw(2, 24, 16))
    ops = reference_impl.OPS
    pairs = [
        (mot_impl.layers.MoTRMSNorm(draw(2, 16), 1e-6), layers.MoTRMSNorm(ops, draw(2, 16), 1e-6)),
        (
            mot_impl.layers.MoTQKVParallelLinear(qkv, norm, parallel),
            layers.MoTQKVParallelLinear(ops, qkv, norm, parallel),
        ),
        (
            mot_impl.layers.MoTMergedColumnParallelLinear(gate_up, (12, 12), parallel),
            layers.MoTMergedColumnParallelLinear(ops, gate_up, (12, 12), parallel),
        ),
        (mot_impl.layers.MoTRowParallelLinear(gate_up), layers.MoTRowParallelLinear(ops, gate_up)),
    ]
    for fused, reference in pairs:
        assert fused.ops.name == "fused"
        ours, theirs = fused(x, ROUTE), reference(x, ROUTE)
        if isinstance(ours, tuple):
            ours, theirs = ours[0], theirs[0]
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_parameters_are_this_ranks_part_and_can_be_saved() -> None:
    norm = QKNorm(draw(2, 4), draw(2, 4), 4, 2, 1e-6)
    qkv = Experts(draw(2, 32, 16), draw(2, 32))
    layer = layers.MoTQKVParallelLinear(reference_impl.OPS, qkv, norm, Parallel(1, 4))
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert shapes == {"weight": (2, 12, 16), "bias": (2, 12), "q_gain": (2, 4), "k_gain": (2, 4)}
    assert layer.double().qk_norm.k_gain.dtype == torch.float64
