"""What the main job traces, and what a broken trace may not cost."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness import goldens
from benchmarks.harness.golden_case import read_case
from benchmarks.harness.night_traces import MOST, Tracer
from benchmarks.harness.records import Golden
from reference_impl.contract import Experts, MoTOps
from tests.golden.conftest import plan
from tests.golden.test_goldens import UNBIASED, with_linear


def judged(approved: Path, impl: str, ops: MoTOps) -> tuple[Tracer, Golden]:
    """A tracer, and the record of the case's picture against the reference."""
    case, asked = read_case(approved), plan(impl, ops)
    return Tracer(asked, [case]), next(iter(goldens.check_all([case], asked, approved.parents[1] / "out")))


def test_a_picture_outside_its_limits_is_said_to_begin_somewhere(approved: Path) -> None:
    tracer, record = judged(approved, "my.kernels:OPS", UNBIASED)
    told = tracer.explained(record)
    assert told.words.startswith("outside: first at the text pass before step 0, layer 0, text expert, qkv")
    (found,) = tracer.finished()
    assert found.sentence == told.words
    assert "qkv" in found.outside[0]


def test_where_nothing_failed_one_picture_is_traced_for_its_curves(approved: Path) -> None:
    tracer, record = judged(approved, "nearly", with_linear(lambda e: Experts(e.weight, e.bias)))
    assert tracer.explained(record) == record
    (found,) = tracer.finished()
    assert len(found.steps) == 1
    assert set(found.branches) == {"main"}


def test_no_more_than_a_few_are_traced(approved: Path) -> None:
    tracer, record = judged(approved, "my.kernels:OPS", UNBIASED)
    tracer.drifts += [None] * MOST  # type: ignore[list-item]
    assert tracer.explained(record) == record


def test_a_trace_that_breaks_is_not_measured_and_keeps_the_record(
    approved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr("benchmarks.harness.night_traces.trace", broken)
    tracer, record = judged(approved, "my.kernels:OPS", UNBIASED)
    assert tracer.explained(record) == record
    (found,) = tracer.finished()
    assert (found.verdict, found.steps) == ("not measured", [])
    assert "illegal memory access" in found.sentence


def test_a_comparison_with_the_golden_is_not_traced(approved: Path) -> None:
    tracer, record = judged(approved, "my.kernels:OPS", UNBIASED)
    against = replace(record, against="golden")
    assert tracer.explained(against) == against
    assert list(tracer.finished()) == []
