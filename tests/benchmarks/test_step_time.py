"""The other ways to compute a step compute that step; and what a step is judged by, on a twin of BAGEL."""

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import mot_impl
import reference_impl
from bagel.latents import Grid
from bagel.layers import MoTLayer
from bagel.model import Bagel
from bagel.step import Graphs
from bagel.tokenizer import Tokenizer
from benchmarks.harness import step_time
from benchmarks.harness.baselines import Way
from benchmarks.harness.environment import repository_root
from benchmarks.harness.step_time import (
    SIZES,
    Step,
    captured,
    distance,
    flops_of,
    linear_bytes,
    prove,
    quantised_step,
    true_model,
    with_ops,
)
from benchmarks.harness.synthetic import BAGEL_7B, LATENT_SIDE, TWIN, quantised, random_bagel, with_layers
from reference_impl.contract import IMAGE, Experts, Kind, QuantisedRows, Route

GRID = Grid(3, 5)
REORDERED = 1e-12
"""Relative, in float64."""


def made(dtype: torch.dtype) -> Bagel:
    tokenizer = Tokenizer.load(repository_root() / "tests/data/bagel_oracle/checkpoint")
    return random_bagel(TWIN, reference_impl.OPS, tokenizer, torch.device("cpu"), dtype)


@pytest.fixture(scope="module")
def wide() -> Step:
    return Step.of(made(torch.float64), GRID, rows=7)


@pytest.fixture(scope="module")
def half() -> Step:
    return Step.of(made(torch.bfloat16), GRID, rows=7)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("way", ["gather", "sorted"])
def test_a_baseline_computes_the_step(wide: Step, way: Way) -> None:
    ours = wide.call(wide.model, None)()
    assert distance(ours, wide.baseline(way, compiled=False)()) < REORDERED


@pytest.mark.parametrize("way", ["gather", "sorted"])
def test_a_baseline_of_several_pictures_computes_the_step(wide: Step, way: Way) -> None:
    several = Step.of(wide.model, GRID, rows=7, pictures=3)
    ours = several.call(several.model, None)()
    assert distance(ours, several.baseline(way, compiled=False)()) < REORDERED


@pytest.mark.parametrize("way", ["gather", "sorted", "dense"])
def test_a_picture_of_several_is_the_picture_alone(wide: Step, way: Way) -> None:
    several = Step.of(wide.model, GRID, rows=7, pictures=3)
    alone = replace(several, x=several.x[-GRID.n_tokens :], pictures=1).baseline(way, compiled=False)()
    assert distance(alone, several.baseline(way, compiled=False)()[-GRID.n_tokens :]) < REORDERED


def test_dense_computes_another_step(wide: Step) -> None:
    assert distance(wide.call(wide.model, None)(), wide.baseline("dense", compiled=False)()) > 0.01


def test_dense_computes_the_step_where_both_experts_are_equal(wide: Step) -> None:
    def image_only(layer: MoTLayer) -> MoTLayer:
        norm, qkv = layer.qk_norm, layer.qkv
        assert qkv.bias is not None
        return replace(
            layer,
            input_gain=_twice(layer.input_gain),
            post_gain=_twice(layer.post_gain),
            qkv=Experts(_twice(qkv.weight), _twice(qkv.bias)),
            qk_norm=replace(norm, q_gain=_twice(norm.q_gain), k_gain=_twice(norm.k_gain)),
            o=Experts(_twice(layer.o.weight)),
            gate_up=Experts(_twice(layer.gate_up.weight)),
            down=Experts(_twice(layer.down.weight)),
        )

    transformer = wide.model.transformer
    equal = replace(wide.model, transformer=replace(transformer, layers=tuple(map(image_only, transformer.layers))))
    step = replace(wide, model=equal)
    assert distance(step.call(equal, None)(), step.baseline("dense", compiled=False)()) < REORDERED


def _twice(stacked: Tensor) -> Tensor:
    return stacked[IMAGE].expand_as(stacked).contiguous()


def test_the_reference_in_half_precision_is_near_the_truth(half: Step) -> None:
    errors = prove(half, half.call(half.model, Graphs(1)))
    assert 1e-3 < errors["reference"] < 0.05
    assert errors["fused"] == errors["reference"]


def test_a_step_with_a_wrong_op_is_refused(half: Step) -> None:
    def slipped(*args: Any) -> Tensor:
        return 1.02 * reference_impl.OPS.linear(*args)

    wrong = with_ops(half.model, replace(reference_impl.OPS, linear=slipped))
    with pytest.raises(RuntimeError, match=r"the step is 0\.\d+ from the truth, the reference 0\.\d+"):
        prove(half, half.call(wrong, None))


def test_a_step_that_differs_from_call_to_call_is_refused(half: Step) -> None:
    calls = iter(torch.randn(3, GRID.n_tokens, 64))
    with pytest.raises(RuntimeError, match="a replay of the step is"):
        prove(half, lambda: next(calls))


@pytest.fixture(scope="module", params=["fp8", "int8"])
def quantised_half(half: Step, request: pytest.FixtureRequest) -> Step:
    return replace(half, model=quantised(half.model, request.param))


@pytest.fixture
def unprofiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time, "profiled", lambda _: ([], 0.0, 0.0))


@pytest.fixture(scope="module")
def truth(half: Step) -> Tensor:
    with torch.no_grad():
        return half.call(true_model(half.model), None)()


@pytest.mark.usefixtures("unprofiled")
def test_a_quantised_step_is_held_to_its_codes_and_told_from_the_truth(quantised_half: Step, truth: Tensor) -> None:
    found = quantised_step(quantised_half, truth, quantised_half.call(quantised_half.model, Graphs(1)))
    assert 1e-3 < found.errors["reference"] < 0.05
    assert found.errors["fused"] == found.errors["reference"]
    assert 0.005 < found.truth == found.truth_of_reference < 0.2


@pytest.mark.usefixtures("unprofiled")
@pytest.mark.parametrize("columns", [slice(16, None), slice(None, -16)], ids=["first", "last"])
def test_a_quantised_step_that_loses_a_part_of_k_is_refused(
    quantised_half: Step, truth: Tensor, columns: slice
) -> None:
    def lossy(x: Any, experts: Experts, route: Route) -> Tensor:
        values = x.values[:, columns] if isinstance(x, QuantisedRows) else x[:, columns]
        x = replace(x, values=values) if isinstance(x, QuantisedRows) else values
        return reference_impl.OPS.linear(x, replace(experts, weight=experts.weight[..., columns]), route)

    wrong = with_ops(quantised_half.model, replace(reference_impl.OPS, linear=lossy))
    with pytest.raises(RuntimeError, match=r"the step is 0\.\d+ from the truth, the reference 0\.\d+"):
        quantised_step(quantised_half, truth, quantised_half.call(wrong, None))


@pytest.mark.usefixtures("unprofiled")
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled, for the GPU")
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_the_fused_step_over_quantised_layers_passes(kind: Kind) -> None:
    """In Triton's interpreter, from the embedding to the velocity."""
    step = Step.of(with_ops(made(torch.float16), mot_impl.OPS), GRID, rows=7)
    exact = step.call(true_model(step.model), None)()
    one = replace(step, model=quantised(step.model, kind))
    found = quantised_step(one, exact, one.call(one.model, Graphs(1)))
    assert 0.5 < found.truth / found.truth_of_reference < 1.5


def test_quantising_halves_the_memory_of_linear_layers(half: Step, quantised_half: Step) -> None:
    share = linear_bytes(quantised_half.model) / linear_bytes(half.model)
    assert 0.5 < share < 0.51  # scales, and biases as they were


def test_quantised_layers_share_all_other_weights(half: Step, quantised_half: Step) -> None:
    assert quantised_half.model.transformer.embedding is half.model.transformer.embedding


def test_a_guidance_branch_doubles_the_rows(half: Step) -> None:
    assert half.call(half.model, None, guided=True)().shape == (30, 64)


def test_floor_of_bagel_is_what_its_weights_and_attention_cost() -> None:
    flops = flops_of(made(torch.bfloat16), 17, 7)
    weights = 256 * 512 + 256 * 256 + 256 * 1024 + 512 * 256
    assert flops == 2 * (2 * 17 * weights + 4 * 17 * 24 * 256)


def test_a_picture_of_several_attends_to_itself_only() -> None:
    model = made(torch.bfloat16)
    assert flops_of(model, 34, 7) - flops_of(model, 34, 7, pictures=2) == 2 * 4 * 34 * 17 * 256


def test_full_size_is_bagels() -> None:
    language = BAGEL_7B.language
    assert (language.hidden, language.layers, language.head_dim, BAGEL_7B.stride) == (3584, 28, 128, 16)
    assert with_layers(BAGEL_7B, 2).language.layers == 2
    assert [size.pictures * (size.grid.n_tokens + 2) for size in SIZES.values()] == list(SIZES)


def test_positions_of_every_size_are_in_the_table() -> None:
    assert [int(size.grid.positions(LATENT_SIDE).max()) for size in SIZES.values()] == [2015, 4095, 2015]


def test_a_captured_baseline_keeps_what_its_graph_reads(half: Step, without_a_gpu: None) -> None:
    baseline = half.baseline("sorted", compiled=False)
    alive = weakref.ref(baseline)
    replay = captured(baseline)
    del baseline
    assert alive() is not None
    assert replay().shape == (GRID.n_tokens, 64)


@pytest.fixture
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA streams and graphs that do nothing: what is captured runs once, as it is."""

    class Nothing:
        def wait_stream(self, _: object) -> None: ...
        def replay(self) -> None: ...

    for name in ("Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: contextlib.nullcontext())


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["gather", "sorted", "dense"])
def test_a_captured_baseline_replays_the_same_after_memory_is_used_again(way: Way) -> None:
    tokenizer = Tokenizer.load(repository_root() / "tests/data/bagel_oracle/checkpoint")
    model = random_bagel(TWIN, reference_impl.OPS, tokenizer, torch.device("cuda"), torch.bfloat16)
    step = Step.of(model, GRID, rows=7)
    expected = step.baseline(way, compiled=False)()
    replay = captured(step.baseline(way, compiled=False))
    others = [torch.full((n,), -1, device="cuda") for n in (1, GRID.n_tokens, 64, 4096) for _ in range(50)]
    assert distance(expected, replay()) < 0.02
    assert len(others) == 200
