"""What a rank holds after loading, and which ranks are refused before it."""

from pathlib import Path

import pytest
import torch

import reference_impl
from bagel.pipeline import BagelPipeline
from bagel.transformer import Transformer
from reference_impl.contract import Experts
from reference_impl.parallel import ALONE, Parallel

CHECKPOINT = Path(__file__).parents[1] / "data" / "bagel_oracle" / "checkpoint"


def load(parallel: Parallel) -> Transformer:
    return BagelPipeline.from_checkpoint(CHECKPOINT, reference_impl.OPS, parallel=parallel).model.transformer


def held(transformer: Transformer) -> int:
    """Bytes behind the layers' linear weights, whatever part of them is in use."""
    storages = {}
    for layer in transformer.layers:
        for experts in (value for value in vars(layer).values() if isinstance(value, Experts)):
            storage = experts.weight.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_a_rank_holds_its_part_of_the_layers_only() -> None:
    assert held(load(Parallel(1, 2))) * 2 == held(load(ALONE))


def test_ranks_that_share_a_key_value_head_hold_it_too() -> None:
    hidden, d, inner, layers, float32 = 64, 16, 160, 2, 4
    qkv, o, gate_up, down = 3 * d * hidden, d * hidden, 2 * inner // 4 * hidden, inner // 4 * hidden
    assert held(load(Parallel(3, 4))) == 2 * layers * float32 * (qkv + o + gate_up + down)


def test_sequence_parallel_keeps_whole_weights() -> None:
    assert held(load(Parallel(2, 3, "sequence"))) == held(load(ALONE))


def test_the_cache_has_this_ranks_heads() -> None:
    assert load(Parallel(3, 4)).empty_context().layers[0].k.shape == (0, 1, 16)


def test_parts_of_all_ranks_are_the_whole() -> None:
    whole = load(ALONE).layers[1].down.weight
    parts = [load(Parallel(rank, 2)).layers[1].down.weight for rank in range(2)]
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_ranks_that_do_not_divide_the_heads_are_refused() -> None:
    message = "4 attention heads and intermediate_size 160 do not divide among 3 ranks; use 1 or 2 or 4 ranks, or seq"
    with pytest.raises(ValueError, match=message):
        load(Parallel(0, 3))
