"""The one clock. docs/measuring.md explains every choice here; change one and PROTOCOL must change with it.

A call is a function without arguments. Work is given as several calls on distinct copies of the same inputs, so that a
GPU's L2 cache can be kept cold by going round them.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PROTOCOL = 2
"""Number of the measuring protocol. It is part of every benchmark's version: another protocol starts a new series."""

Call = Callable[[], object]
Cache = Literal["cold", "hot"]


@dataclass(frozen=True)
class Rule:
    """When to stop taking samples.

    target       relative standard error of the mean that is good enough
    least, most  number of samples
    limit        seconds of sampling after which `least` is enough
    """

    target: float
    least: int
    most: int
    limit: float

    def done(self, samples: Sequence[float], elapsed: float) -> bool:
        """Whether `samples`, taken in `elapsed` seconds, are enough."""
        if len(samples) < self.least:
            return False
        return len(samples) >= self.most or elapsed >= self.limit or relative_error(samples) <= self.target


CPU_RULE = Rule(target=0.01, least=10, most=100, limit=0.5)
GPU_RULE = Rule(target=0.002, least=20, most=200, limit=1.0)
END_TO_END_RULE = Rule(target=0.01, least=3, most=20, limit=3.0)

CPU_SAMPLE = 2e-3
GPU_SAMPLE = 2e-3
"""Seconds that one sample should last at least: long against the resolution of the timer and the cost of a launch."""

WARM_UP = 0.1
"""Seconds of calls before the first sample: caches, thread pool, allocator and clock frequency settle."""

FLUSH = 4
"""A cold sample goes round copies that together are this many times as large as the L2 cache."""


def relative_error(samples: Sequence[float]) -> float:
    """Standard error of the mean over the mean; infinite for fewer than two samples."""
    if len(samples) < 2:
        return math.inf
    return statistics.stdev(samples) / math.sqrt(len(samples)) / statistics.fmean(samples)


def calls_per_sample(seconds_per_call: float, target: float, multiple: int = 1) -> int:
    """How many calls make a sample of at least `target` seconds: whole rounds of `multiple`, about 10,000 at most."""
    needed = min(10_000, math.ceil(target / max(seconds_per_call, 1e-9)))
    return multiple * max(1, math.ceil(needed / multiple))


def copies_for_cold(bytes_per_call: int, l2_bytes: int) -> int:
    """How many distinct copies of a call's inputs keep the L2 cache cold; at least two."""
    return max(2, math.ceil(FLUSH * l2_bytes / max(1, bytes_per_call)))


def take(sample: Callable[[], float], rule: Rule, now: Callable[[], float] = time.perf_counter) -> list[float]:
    """Samples in seconds until `rule` is content."""
    samples: list[float] = []
    start = now()
    while not rule.done(samples, now() - start):
        samples.append(sample())
    return samples


def measure_cpu(call: Call, rule: Rule = CPU_RULE) -> list[float]:
    """Seconds per call on the CPU, by perf_counter; caches as warm as repetition makes them."""
    first = _wall(call, 1)
    repeat = calls_per_sample(min(first, _wall(call, 1)), CPU_SAMPLE)
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP:
        _wall(call, repeat)
    return take(lambda: _wall(call, repeat), rule)


def measure_gpu(calls: Sequence[Call], cache: Cache, rule: Rule = GPU_RULE) -> list[float]:
    """Seconds per call on the current CUDA device: events around replays of one CUDA graph.

    hot repeats calls[0]; cold goes round all of them, which must cover FLUSH times the L2 cache (copies_for_cold).
    Raises NotImplementedError if a call cannot be captured in a graph.
    """
    with replayed(calls, cache) as (graph, repeat):
        start = time.perf_counter()
        while time.perf_counter() - start < WARM_UP:
            replay_seconds(graph, 5)
        return take(lambda: replay_seconds(graph, 1) / repeat, rule)


@contextlib.contextmanager
def replayed(calls: Sequence[Call], cache: Cache) -> Iterator[tuple["Captured", int]]:
    """A graph of the calls that lasts GPU_SAMPLE, and how many calls are in it, on a stream of its own."""
    import torch

    chosen = list(calls) if cache == "cold" else [calls[0]]
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in chosen * 2:  # compiles, and fills the allocator, which a capture must not do
            call()
        rough = replay_seconds(capture(chosen, len(chosen)), 3) / len(chosen)
        repeat = calls_per_sample(rough, GPU_SAMPLE, len(chosen))
        yield capture(chosen, repeat), repeat


def measure_end_to_end(call: Call, device: str, rule: Rule = END_TO_END_RULE) -> list[float]:
    """Wall seconds of a whole job, its launches and copies included; the device is idle before and after."""
    import torch

    def sample() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    sample()
    return take(sample, rule)


def peak_memory(call: Call, device: str) -> int:
    """Bytes at the highest point of one call, with everything that was there before it.

    GPU: what PyTorch had allocated at once, weights and inputs included. CPU: the resident set of this process, Python
    and PyTorch included: it means something only beside another figure of the same benchmark. Raises OSError on a CPU
    without /proc.
    """
    if device == "cpu":
        # 5 forgets the peak so far. Where a kernel does not offer that, the peak is the process's own.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        call()
        return _peak_resident_bytes()
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated())


def _peak_resident_bytes() -> int:
    """VmHWM, not getrusage: Linux hands ru_maxrss down through exec, so a child starts with its parent's peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM line; peak memory of a CPU process is read from it (Linux only)")


def _wall(call: Call, repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


@dataclass(frozen=True)
class Captured:
    """A CUDA graph, the calls in it, and what each returned last.

    A graph reads and writes addresses and keeps no tensor alive. Whoever holds it must hold what its calls read, or a
    replay reads memory that has become something else's.
    """

    graph: Any
    calls: tuple[Call, ...]
    results: tuple[Any, ...]

    def replay(self) -> None:
        """All calls once more, into the same results."""
        self.graph.replay()


def capture(calls: Sequence[Call], repeat: int) -> Captured:
    """One graph of `repeat` calls, going round `calls`. Results of a round stay alive, so that writes rotate too."""
    import torch

    graph = torch.cuda.CUDAGraph()
    kept: list[Any] = [None] * len(calls)
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            for i in range(repeat):
                kept[i % len(calls)] = calls[i % len(calls)]()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise NotImplementedError(f"the call cannot be captured in a CUDA graph ({reason})") from error
    return Captured(graph, tuple(calls), tuple(kept))


def replay_seconds(graph: Any, times: int, meanwhile: Call = lambda: None) -> float:
    """Seconds of one replay, by events around `times` of them; `meanwhile` is called when all are launched."""
    import torch

    begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(times):
        graph.replay()
    end.record()
    meanwhile()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3 / times
