"""What the decorators promise: n/a, failure, records, and no number from a red gate."""

import os

import pytest
import torch

from benchmarks.harness import clock, environment, overlay, profiles, subject
from benchmarks.harness.overlay import Overlay
from benchmarks.harness.records import Timing, Value, read_lines
from benchmarks.harness.subject import Subject

TIMED = profiles.Benchmark("test_subject.track_time", "seconds", {"impl": ("reference",), "shape": ("small",)})
COUNTED = profiles.Benchmark("test_subject.track_count", "apples", {"impl": ("reference",)})
OUTSIDE = profiles.Benchmark("test_subject.track_outside", "seconds", {"impl": ("fused",)})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """This process as one that asv started for a commit, measuring the checkout's own packages."""
    note = Overlay("c" * 40, str(environment.repository_root()), str(tmp_path), "cpu", "f" * 12, round=3)
    monkeypatch.setattr(overlay, "current", lambda: note)
    suite = {benchmark.name: benchmark for benchmark in (TIMED, COUNTED, OUTSIDE)}
    monkeypatch.setattr(profiles, "SUITE", suite)
    threads = torch.get_num_threads()
    yield note
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)


def build(name, decorator, work):
    """A benchmark as a file would declare it."""

    def function(*values):
        return work()

    function.__name__, function.__module__ = name, "benchmarks.test_subject"
    return decorator(function)


def nothing():
    return None


def raising(error):
    def call():
        raise error

    return call


def test_samples_go_to_asv_in_its_own_form():
    benchmark = build("track_time", subject.kernel_seconds, lambda: Subject([nothing], "cpu", nothing))
    benchmark.setup("reference", "small")
    returned = benchmark("reference", "small")
    assert returned["number"] == 1
    assert len(returned["samples"]) >= clock.CPU_RULE.least


def test_samples_are_recorded_with_what_asv_forgets(tmp_path, here):
    benchmark = build("track_time", subject.kernel_seconds, lambda: Subject([nothing], "cpu", nothing, "16x16x16"))
    samples = benchmark("reference", "small")["samples"]
    ((line,), broken) = read_lines(tmp_path / "timing.jsonl", Timing)
    assert (line.commit, line.round, line.pid, line.tile) == (here.commit, 3, os.getpid(), "16x16x16")
    assert (line.samples, line.params) == (samples, {"impl": "reference", "shape": "small"})
    assert line.protocol == clock.PROTOCOL
    assert not broken


def test_on_a_cpu_no_clock_and_no_kernel_is_recorded(tmp_path):
    build("track_time", subject.kernel_seconds, lambda: Subject([nothing], "cpu", nothing))("reference", "small")
    ((line,), _) = read_lines(tmp_path / "timing.jsonl", Timing)
    assert (line.clock, line.kernels, line.compile_seconds) == (None, "", None)


def test_number_is_recorded_with_its_unit(tmp_path):
    benchmark = build("track_count", subject.number, lambda: Subject([lambda: 3], "cpu", nothing))
    assert benchmark("reference") == 3.0
    ((line,), _) = read_lines(tmp_path / "values.jsonl", Value)
    assert (line.value, line.unit) == (3.0, "apples")


def test_red_gate_stops_the_benchmark_before_it_measures(tmp_path):
    gate = raising(RuntimeError("disagrees"))
    benchmark = build("track_time", subject.kernel_seconds, lambda: Subject([nothing], "cpu", gate))
    with pytest.raises(RuntimeError, match="disagrees"):
        benchmark.setup("reference", "small")


def test_series_outside_the_profile_is_not_applicable():
    benchmark = build("track_outside", subject.kernel_seconds, raising(AssertionError("built all the same")))
    with pytest.raises(NotImplementedError, match="interpreter"):
        benchmark.setup("fused")


@pytest.mark.parametrize("error", [ImportError("no module"), AttributeError("no op")], ids=["package", "op"])
def test_what_an_old_commit_lacks_is_not_applicable(error):
    benchmark = build("track_time", subject.kernel_seconds, raising(error))
    with pytest.raises(NotImplementedError, match="commit cccccccc lacks this: no"):
        benchmark.setup("reference", "small")


def test_heavy_inputs_are_built_once():
    built = []

    def work():
        built.append(1)
        return Subject([nothing], "cpu", nothing)

    benchmark = build("track_time", subject.kernel_seconds, work)
    benchmark.setup("reference", "small")
    benchmark("reference", "small")
    assert built == [1]


def test_one_thread_measures():
    build("track_time", subject.kernel_seconds, lambda: Subject([nothing], "cpu", nothing)).setup("reference", "small")
    assert torch.get_num_threads() == 1
