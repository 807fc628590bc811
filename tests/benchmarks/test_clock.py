import itertools
import math
import subprocess
import sys
import time

import pytest

from benchmarks.harness import clock
from benchmarks.harness.clock import Rule

RULE = Rule(target=0.01, least=3, most=5, limit=1.0)
STEADY, NOISY = [1.0, 1.0, 1.0], [1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("samples", "elapsed", "done"),
    [
        pytest.param(STEADY[:2], 9.0, False, id="never-fewer-than-least"),
        pytest.param(STEADY, 0.1, True, id="precise-enough"),
        pytest.param(NOISY, 0.1, False, id="too-noisy"),
        pytest.param(NOISY, 1.0, True, id="noisy-but-out-of-time"),
        pytest.param([1.0, 2.0] * 3, 0.1, True, id="noisy-but-at-most"),
    ],
)
def test_rule_stops_when(samples, elapsed, done):
    assert RULE.done(samples, elapsed) is done


def test_relative_error_is_the_standard_error_over_the_mean():
    assert clock.relative_error([1.0, 2.0, 3.0]) == pytest.approx(1.0 / math.sqrt(3) / 2.0)


def test_relative_error_of_one_sample_is_infinite():
    assert clock.relative_error([1.0]) == math.inf


@pytest.mark.parametrize(
    ("seconds", "multiple", "calls"),
    [
        pytest.param(1.0, 1, 1, id="slow-call-once"),
        pytest.param(1e-4, 1, 20, id="fast-call-until-two-milliseconds"),
        pytest.param(1e-4, 15, 30, id="whole-rounds"),
        pytest.param(0.0, 1, 10_000, id="immeasurably-fast-is-bounded"),
    ],
)
def test_calls_per_sample(seconds, multiple, calls):
    assert clock.calls_per_sample(seconds, 2e-3, multiple) == calls


@pytest.mark.parametrize(
    ("bytes_per_call", "copies"),
    [pytest.param(10, 20, id="small-inputs"), pytest.param(10_000, 2, id="inputs-larger-than-the-cache")],
)
def test_cold_copies_cover_four_times_the_cache(bytes_per_call, copies):
    assert clock.copies_for_cold(bytes_per_call, l2_bytes=50) == copies


def test_take_stops_at_the_limit_of_its_own_clock():
    ticks = itertools.count(0, 0.4)
    noise = itertools.cycle([1.0, 2.0])
    taken = clock.take(lambda: next(noise), RULE, now=lambda: next(ticks))
    assert len(taken) == 3


def test_cpu_samples_are_seconds_per_call():
    samples = clock.measure_cpu(lambda: time.sleep(2e-3), Rule(target=0.01, least=3, most=5, limit=0.1))
    assert all(2e-3 <= sample < 2e-2 for sample in samples)


def test_end_to_end_runs_once_before_it_counts():
    durations = iter([0.05, 0.0, 0.0, 0.0])
    samples = clock.measure_end_to_end(lambda: time.sleep(next(durations)), "cpu", Rule(1.0, 3, 3, 1.0))
    assert max(samples) < 0.05


def test_peak_memory_of_a_child_does_not_start_at_its_parents():
    child = "from benchmarks.harness import clock; print(clock.peak_memory(lambda: None, 'cpu'))"
    parent = f"import subprocess, sys; ballast = b'x' * 400_000_000; subprocess.run([sys.executable, '-c', {child!r}])"
    out = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout
    assert int(out) < 200_000_000


def test_peak_memory_sees_what_the_call_allocates_for_a_moment():
    before = clock.peak_memory(lambda: None, "cpu")
    assert clock.peak_memory(lambda: len(b"x" * 400_000_000), "cpu") >= before + 350_000_000


def test_peak_memory_forgets_what_came_before_the_call():
    large = clock.peak_memory(lambda: len(b"x" * 400_000_000), "cpu")
    assert clock.peak_memory(lambda: None, "cpu") <= large - 350_000_000


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["cold", "hot"])
def test_gpu_clock_agrees_with_the_cards_bandwidth(cache):
    import torch

    sources = [torch.randn(64 << 20, device="cuda") for _ in range(2)]
    targets = [torch.empty_like(source) for source in sources]
    calls = [lambda t=t, s=s: t.copy_(s) for t, s in zip(targets, sources, strict=True)]
    median = sorted(clock.measure_gpu(calls, cache))[0]
    gigabytes_per_second = 2 * sources[0].nbytes / median / 1e9
    assert 300 < gigabytes_per_second < 10_000


@pytest.mark.gpu
def test_gpu_cold_is_slower_than_hot_where_the_inputs_fit_the_cache():
    import torch

    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    copies = clock.copies_for_cold(8 << 20, l2)
    calls = [torch.randn(2 << 20, device="cuda").sum for _ in range(copies)]
    cold, hot = (sorted(clock.measure_gpu(calls, cache))[0] for cache in ("cold", "hot"))
    assert cold > 1.05 * hot


@pytest.mark.gpu
def test_gpu_call_that_synchronises_is_refused():
    import torch

    x = torch.ones(4, device="cuda")
    with pytest.raises(NotImplementedError, match="cannot be captured"):
        clock.measure_gpu([lambda: x.sum().item()], "hot")
