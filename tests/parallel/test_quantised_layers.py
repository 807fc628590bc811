"""Quantised layers under tensor parallelism: scales are cut with what they belong to."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import reference_impl as ops
from bagel.pipeline import BagelPipeline
from bagel.transformer import Transformer
from reference_impl import layers
from reference_impl.contract import Experts, Kind, upcast
from reference_impl.parallel import ALONE, Parallel, cut_heads, cut_inputs, cut_outputs
from reference_impl.quantise import quantise, quantise_rows
from tests.parallel.problem import QUANTISED, Problem, Quantised

CHECKPOINT = Path(__file__).parents[1] / "data" / "bagel_oracle" / "checkpoint"
RANKS = [(size, rank) for size in (1, 2, 4) for rank in range(size)]
every_rank = pytest.mark.parametrize(("size", "rank"), RANKS, ids=[f"{rank} of {size}" for size, rank in RANKS])
every_kind = pytest.mark.parametrize("one", QUANTISED, ids=lambda one: one.name)
kinds = pytest.mark.parametrize("kind", ["fp8", "int8"])


def made(results: Path, one: Quantised, size: int, rank: int) -> dict[str, Tensor]:
    return load_file(results / f"quantised-{one.name}-{size}-{rank}.safetensors")


def whole(one: Quantised, name: str) -> tuple[Tensor, Tensor]:
    """o or down by one process: its result, and the same of the same weights without quantising its rows."""
    p = Problem.make().quantised(one.kind, one.fixed)
    experts = getattr(p, name)
    x = p.wide(experts.n_in)
    return ops.linear(x, experts, p.route), ops.linear(x, upcast(experts, torch.float32), p.route)


@every_rank
@every_kind
def test_a_column_layer_is_its_part_of_the_whole(results: Path, one: Quantised, size: int, rank: int) -> None:
    p = Problem.make().quantised(one.kind, one.fixed)
    expected = ops.linear(p.x, p.qkv, p.route)
    norm, d = p.norm, p.norm.head_dim
    own = list(range(norm.n_heads))[rank * norm.n_heads // size : (rank + 1) * norm.n_heads // size]
    kv = sorted({head * norm.n_kv_heads // norm.n_heads for head in own})
    heads = [*own, *(norm.n_heads + i for i in kv), *(norm.n_heads + norm.n_kv_heads + i for i in kv)]
    columns = torch.cat([torch.arange(i * d, (i + 1) * d) for i in heads])
    assert torch.allclose(made(results, one, size, rank)["qkv"], expected[:, columns], rtol=1e-5, atol=1e-5)


@every_rank
@pytest.mark.parametrize("name", ["o", "down"])
@pytest.mark.parametrize("one", [QUANTISED[0], QUANTISED[2]], ids=lambda one: one.name)
def test_a_row_layer_is_the_whole_one(results: Path, one: Quantised, size: int, rank: int, name: str) -> None:
    assert torch.allclose(made(results, one, size, rank)[name], whole(one, name)[0], rtol=1e-5, atol=1e-5)


@every_rank
@pytest.mark.parametrize("name", ["o", "down"])
def test_own_scales_of_a_ranks_part_are_no_less_exact(results: Path, size: int, rank: int, name: str) -> None:
    one = QUANTISED[1]
    alone, exact = whole(one, name)
    error = (made(results, one, size, rank)[name] - exact).norm()
    assert float(error) <= 1.1 * float((alone - exact).norm())


@every_kind
def test_ranks_have_the_same_sums_to_the_bit(results: Path, one: Quantised) -> None:
    first, *others = (made(results, one, 4, rank) for rank in range(4))
    assert all(torch.equal(first[name], other[name]) for other in others for name in ("o", "down"))


@kinds
def test_outputs_are_cut_with_their_scales(kind: Kind) -> None:
    merged = quantise(Experts(torch.arange(1.0, 9.0).repeat(2, 1)[:, :, None].repeat(1, 1, 3)), kind)
    cut = cut_outputs(merged, (4, 4), Parallel(1, 2))
    assert cut.scale is not None
    assert upcast(cut, torch.float32).weight[0, :, 0].tolist() == pytest.approx([3, 4, 7, 8])


@kinds
def test_heads_are_cut_with_their_scales(kind: Kind) -> None:
    p = Problem.make().quantised(kind)
    parts = [cut_heads(p.qkv, p.norm, Parallel(rank, 2))[0] for rank in range(2)]
    queries = [upcast(part, torch.float32).weight[:, : p.norm.n_heads * p.norm.head_dim // 2] for part in parts]
    assert torch.equal(
        torch.cat(queries, 1), upcast(p.qkv, torch.float32).weight[:, : p.norm.n_heads * p.norm.head_dim]
    )


@kinds
def test_inputs_are_cut_and_scales_stay_whole(kind: Kind) -> None:
    experts = Problem.make().quantised(kind).o
    parts = [upcast(cut_inputs(experts, Parallel(rank, 4)), torch.float32).weight for rank in range(4)]
    assert torch.equal(torch.cat(parts, 2), upcast(experts, torch.float32).weight)


def test_every_part_keeps_the_fixed_scale_of_its_input() -> None:
    p, two = Problem.make().quantised("fp8", 0.01), Parallel(1, 2)
    cuts = (cut_heads(p.qkv, p.norm, two)[0], cut_outputs(p.gate_up, (p.inner, p.inner), two), cut_inputs(p.o, two))
    assert [cut.input_scale.tolist() for cut in cuts if cut.input_scale is not None] == [
        pytest.approx([0.01, 0.02])
    ] * 3


@kinds
def test_parameters_are_the_parts_and_can_be_saved(kind: Kind) -> None:
    p = Problem.make().quantised(kind)
    layer = layers.MoTQKVParallelLinear(ops.OPS, p.qkv, p.norm, Parallel(1, 4))
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert shapes == {
        "weight": (2, 24, 24), "bias": (2, 24), "scale": (2, 24), "q_gain": (2, 6), "k_gain": (2, 6),
    }  # fmt: skip
    assert layer.experts.kind == kind


def test_a_layer_takes_rows_that_are_quantised_already() -> None:
    p = Problem.make().quantised("fp8")
    layer = layers.MoTMergedColumnParallelLinear(ops.OPS, p.gate_up, (p.inner, p.inner))
    assert torch.equal(layer(quantise_rows(p.x, p.route), p.route)[0], layer(p.x, p.route)[0])


@kinds
def test_a_skipped_bias_is_left_to_the_caller(kind: Kind) -> None:
    p = Problem.make().quantised(kind)
    y, bias = layers.MoTRowParallelLinear(ops.OPS, p.o, skip_bias_add=True)(p.wide(p.o.n_in), p.route)
    assert bias is not None
    assert torch.equal(y, ops.linear(p.wide(p.o.n_in), replace(p.o, bias=None), p.route))


@kinds
def test_parts_loaded_by_ranks_are_the_whole(kind: Kind) -> None:
    def load(parallel: Parallel) -> Transformer:
        return BagelPipeline.from_checkpoint(CHECKPOINT, ops.OPS, parallel=parallel, quantise=kind).model.transformer

    one, parts = load(ALONE).layers[1], [load(Parallel(rank, 2)).layers[1] for rank in range(2)]
    down = [upcast(part.down, torch.float32).weight for part in parts]
    assert torch.equal(torch.cat(down, 2), upcast(one.down, torch.float32).weight)
    gates = [upcast(part.gate_up, torch.float32).weight.chunk(2, 1) for part in parts]
    assert torch.equal(
        torch.cat([gates[0][0], gates[1][0], gates[0][1], gates[1][1]], 1), upcast(one.gate_up, torch.float32).weight
    )
