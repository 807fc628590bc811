"""The subjects of full size, built over a twin on a CPU: what they call, what they prove, and where they are n/a."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

import reference_impl
from bagel.latents import Grid
from bagel.model import Bagel
from bagel.tokenizer import Tokenizer
from benchmarks.harness import baselines, clock, full_size, profiles, step_time
from benchmarks.harness.environment import repository_root
from benchmarks.harness.impls import FUSED, load_impl
from benchmarks.harness.step_time import Size, Step, distance
from benchmarks.harness.synthetic import TWIN, random_bagel

EAGER = profiles.GATHER_EAGER
SMALL = Size(Grid(3, 5), 2)


@pytest.fixture(scope="module")
def twin() -> Bagel:
    tokenizer = Tokenizer.load(repository_root() / "tests/data/bagel_oracle/checkpoint")
    return random_bagel(TWIN, reference_impl.OPS, tokenizer, torch.device("cpu"), torch.bfloat16)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(step_time.SIZES, 4098, SMALL)
    with torch.no_grad():
        yield


def series(impl: str) -> dict[str, str]:
    return {"impl": impl, "shape": "4098"}


def test_the_public_way_proves_itself_and_is_timed_with_its_launches(twin: Bagel) -> None:
    subject = full_size.step(series(EAGER), twin)
    subject.prove()
    assert subject.launched


def test_the_public_way_computes_all_pictures_of_the_size(twin: Bagel) -> None:
    ours = full_size.step(series(EAGER), twin).calls[0]()
    step = Step.of(twin, SMALL.grid, pictures=2)
    assert distance(step.call(twin, None)(), ours) < 0.02


def test_a_public_way_that_computes_something_else_is_refused(twin: Bagel, monkeypatch: pytest.MonkeyPatch) -> None:
    right = baselines.LAYERS["gather"]
    monkeypatch.setitem(baselines.LAYERS, "gather", lambda *given: 1.1 * right(*given))
    with pytest.raises(RuntimeError, match="from the truth"):
        full_size.step(series(EAGER), twin).prove()


def test_one_expert_for_all_rows_has_nothing_to_agree_with(twin: Bagel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda layer, **_: layer)  # a compiler takes seconds
    full_size.step(series(profiles.DENSE), twin).prove()


def test_stages_of_a_picture_are_told_apart(twin: Bagel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size, "STEPS", 3)
    subject = full_size.picture({"task": "t2i-32", "impl": EAGER}, twin)
    assert {"context: text", "denoising", "autoencoder, decoding"} <= subject.stages().keys()


def test_a_picture_whose_step_is_wrong_is_refused(twin: Bagel, monkeypatch: pytest.MonkeyPatch) -> None:
    right = baselines.LAYERS["gather"]
    subject = full_size.picture({"task": "t2i-32", "impl": EAGER}, twin)
    monkeypatch.setitem(baselines.LAYERS, "gather", lambda *given: 1.1 * right(*given))
    with pytest.raises(RuntimeError, match="from the truth"):
        subject.prove()


def test_a_gpu_with_too_little_memory_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size, "place", lambda: (torch.device("cuda"), torch.bfloat16))
    there = SimpleNamespace(total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: there)
    with pytest.raises(NotImplementedError, match="needs a GPU with 40 GiB; this one has 24 GiB"):
        full_size.model(EAGER)


@pytest.mark.parametrize("name", sorted(name for name in profiles.SUITE if name.startswith("full_size.")))
def test_a_cpu_measures_none_of_it(name: str) -> None:
    benchmark = profiles.SUITE[name]
    reasons = {profiles.outside("cpu", name, params) for params in benchmark.combinations()}
    assert reasons == {profiles.FULL_SIZE_NEEDS}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it compiles
@pytest.mark.parametrize("impl", profiles.FULL_SIZE_IMPLS)
def test_a_step_of_any_kind_is_captured_or_timed_by_the_wall(impl: str) -> None:
    ops = load_impl(impl) if impl == FUSED else reference_impl.OPS
    tokenizer = Tokenizer.load(repository_root() / "tests/data/bagel_oracle/checkpoint")
    subject = full_size.step(series(impl), random_bagel(TWIN, ops, tokenizer, torch.device("cuda"), torch.bfloat16))
    subject.prove()
    rule = clock.Rule(1.0, 2, 2, 1.0)
    call = subject.calls
    taken = (
        clock.measure_end_to_end(call[0], "cuda", rule) if subject.launched else clock.measure_gpu(call, "hot", rule)
    )
    assert all(sample > 0 for sample in taken)
