"""Seconds by op: every op is watched, none twice, and they stay within the picture."""

import dataclasses
import time
from collections.abc import Callable

import pytest

import reference_impl
from bagel.pipeline import BagelPipeline, ImageRequest
from benchmarks.harness import op_seconds
from benchmarks.harness.environment import repository_root
from benchmarks.harness.op_seconds import Ledger
from reference_impl.contract import MoTOps


def slow(*arguments: object) -> str:
    time.sleep(0.01)
    return "result"


@pytest.fixture
def ops() -> MoTOps:
    """A fast bundle whose rotary takes 10 ms, and whose gated_mlp calls it."""
    return dataclasses.replace(reference_impl.OPS, rotary=slow, gated_mlp=lambda *arguments: slow())


def test_an_op_is_timed_and_its_result_handed_on(ops: MoTOps) -> None:
    ledger = Ledger(on_gpu=False)
    assert ledger.watching(ops).rotary(None, None) == "result"
    assert 0.009 < ledger.seconds()["rotary"] < 1


def test_an_op_that_another_calls_belongs_to_that_one(ops: MoTOps) -> None:
    ledger = Ledger(on_gpu=False)
    watched = ledger.watching(ops)
    outer = ledger.watching(dataclasses.replace(ops, gated_mlp=lambda *arguments: watched.rotary(None, None)))
    outer.gated_mlp(None, None, None, None)
    assert list(ledger.seconds()) == ["gated_mlp"]


def test_what_was_read_is_forgotten(ops: MoTOps) -> None:
    ledger = Ledger(on_gpu=False)
    ledger.watching(ops).rotary(None, None)
    ledger.seconds()
    assert ledger.seconds() == {}


def test_an_op_that_raises_is_left_again(ops: MoTOps) -> None:
    ledger = Ledger(on_gpu=False)
    watched = ledger.watching(ops)
    with pytest.raises(AttributeError):
        watched.attention(None, None, None, False)
    watched.rotary(None, None)
    assert list(ledger.seconds()) == ["attention", "rotary"]


def test_ops_of_a_picture_stay_within_it(one_thread: None) -> None:
    folder = repository_root() / "tests/data/bagel_oracle/checkpoint"
    request = ImageRequest("a red cat", height=32, width=32, steps=3)
    taken: list[float] = []

    def make(ops: MoTOps) -> Callable[[], object]:
        pipeline = BagelPipeline.from_checkpoint(folder, ops)

        def generate() -> None:
            start = time.perf_counter()
            pipeline.generate(request)
            taken.append(time.perf_counter() - start)

        return generate

    found = op_seconds.of_picture(make, reference_impl.OPS, "cpu")
    assert {"linear", "attention"} <= set(found)
    assert 0 < sum(found.values()) < max(taken)


def test_an_op_that_the_last_picture_does_not_call_is_an_op(ops: MoTOps) -> None:
    pictures = iter(range(op_seconds.PICTURES + 1))

    def make(watched: MoTOps) -> Callable[[], object]:
        return lambda: watched.rotary(None, None) if next(pictures) < op_seconds.PICTURES else None

    assert 0.009 < op_seconds.of_picture(make, ops, "cpu")["rotary"] < 1
