"""What turns a function of benchmarks/*.py into an asv benchmark: build, prove parity, measure, record.

A benchmark file describes one Subject per series; a decorator says what is measured of it:

    @subject.kernel_seconds
    def track_seconds(layer, impl, shape, cache):
        ...
        return Subject(...)

Axes, unit and rounds come from profiles.SUITE. asv runs each series in a process of its own: `setup` builds the subject
and proves parity, the benchmark itself only measures. NotImplementedError in `setup` is asv's "n/a": an old commit that
lacks a package or an op is n/a, while a failed proof is a failed benchmark.
"""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import clock, compiled, environment, gpu_clock, launches, overlay, profiles, records
from benchmarks.harness.impls import FUSED

if typing.TYPE_CHECKING:
    import torch

TIMEOUT = 300
"""Seconds a series may take; a first compilation on a GPU takes a good part of a minute."""


@dataclass(frozen=True)
class Subject:
    """What one series measures.

    calls   the same work on distinct copies of its inputs, so that a GPU's cache can be kept cold; elsewhere one
    device  "cpu" or "cuda"
    prove   raises if the implementation disagrees with the reference; called before anything is measured
    tile    which tiles the implementation uses, and from where
    stages  seconds by stage of one call, where a call has stages; called after everything is measured
    ops     seconds by op of the contract, likewise
    launched  launches are part of a call's time on a GPU: it is timed by the wall, not captured
    """

    calls: Sequence[Callable[[], Any]]
    device: str
    prove: Callable[[], object]
    tile: str = "none"
    stages: Callable[[], dict[str, float]] = dict
    ops: Callable[[], dict[str, float]] = dict
    launched: bool = False


@dataclass(frozen=True)
class Taken:
    """Samples in seconds, and what a GPU's clock did; None where it was not measured."""

    samples: list[float]
    clock: records.Clock | None = None


Measure = Callable[[Subject, dict[str, str]], "Taken | float"]
"""Samples, or one number in the benchmark's unit."""


def _benchmark(measure: Measure) -> Callable[[Callable[..., Subject]], Callable[..., Any]]:
    def decorate(build: Callable[..., Subject]) -> Callable[..., Any]:
        entry = profiles.SUITE[f"{build.__module__.rpartition('.')[2]}.{build.__name__}"]
        subject_of = functools.cache(build)

        def setup(*values: str) -> None:
            begin(entry, dict(zip(entry.axes, values, strict=True)))
            try:
                subject = subject_of(*values)
            except (ImportError, AttributeError) as error:
                raise NotImplementedError(f"commit {overlay.current().commit[:8]} lacks this: {error}") from error
            subject.prove()

        def run(*values: str) -> Any:
            subject, params = subject_of(*values), dict(zip(entry.axes, values, strict=True))
            return record(entry, params, subject, measure(subject, params))

        def look(*values: str) -> None:
            _look(entry, dict(zip(entry.axes, values, strict=True)), subject_of(*values))

        attributes = {
            "look": look,
            "params": [list(values) for values in entry.axes.values()],
            "param_names": list(entry.axes),
            "setup": setup,
            "unit": entry.unit,
            "rounds": entry.rounds,
            "timeout": TIMEOUT,
            # asv would hash this file's source; what makes numbers comparable is the protocol.
            "version": f"protocol {clock.PROTOCOL}",
            "pretty_source": inspect.getsource(build),
        }
        run.__name__, run.__qualname__, run.__module__, run.__doc__ = (
            build.__name__,
            build.__qualname__,
            build.__module__,
            build.__doc__,
        )
        for name, value in attributes.items():
            setattr(run, name, value)
        return run

    return decorate


def _kernel_seconds(subject: Subject, params: dict[str, str]) -> Taken:
    if subject.device == "cpu":
        return Taken(clock.measure_cpu(subject.calls[0]))
    if subject.launched:
        return Taken(clock.measure_end_to_end(subject.calls[0], subject.device))
    return Taken(*gpu_clock.measure(subject.calls, "cold" if params.get("cache") == "cold" else "hot"))


kernel_seconds = _benchmark(_kernel_seconds)
"""Time of one call: clock.measure_cpu or gpu_clock.measure. An axis `cache` chooses cold or hot; without it, hot."""

wall_seconds = _benchmark(lambda subject, params: Taken(clock.measure_end_to_end(subject.calls[0], subject.device)))
"""Wall time of a whole job: clock.measure_end_to_end."""

peak_memory = _benchmark(lambda subject, params: float(clock.peak_memory(subject.calls[0], subject.device)))
"""Bytes at the highest point of one call: clock.peak_memory."""

number = _benchmark(lambda subject, params: float(subject.calls[0]()))
"""The number that the call itself returns."""


def begin(entry: profiles.Benchmark, params: dict[str, str]) -> None:
    """Refuse to measure outside the profile, or packages that are not this commit's; then settle the process.

    Raises NotImplementedError (n/a) or ValueError.
    """
    here = overlay.current()
    if here.profile == "gpu":
        _compiled()  # before the first kernel
    if reason := profiles.outside(here.profile, entry.name, params):
        raise NotImplementedError(reason)
    fused = ("mot_impl",) if params.get("impl") == FUSED else ()
    for package in ("reference_impl", *fused, *entry.packages):
        here.package(package)

    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


def place() -> tuple[torch.device, torch.dtype]:
    """Where and in which precision this profile measures: float32 on a CPU, bfloat16 on a GPU."""
    import torch

    if overlay.current().profile == "cpu":
        return torch.device("cpu"), torch.float32
    return torch.device("cuda"), torch.bfloat16


def record(entry: profiles.Benchmark, params: dict[str, str], subject: Subject, measured: Taken | float) -> Any:
    """Append what was measured to the run's records, and return it in the form that asv understands."""
    here = overlay.current()
    folder = Path(here.records)
    common: dict[str, Any] = {
        "benchmark": entry.name,
        "params": params,
        "commit": here.commit,
        "fingerprint": here.fingerprint,
        "protocol": clock.PROTOCOL,
        "round": here.round,
        "pid": os.getpid(),
        "created": environment.now(),
    }
    if isinstance(measured, float):
        records.append_line(folder / "values.jsonl", records.Value(**common, value=measured, unit=entry.unit))
        return measured
    peak = clock.peak_memory(subject.calls[0], subject.device)
    kernels = _compiled() if here.profile == "gpu" else compiled.Compiled()
    timing = records.Timing(
        **common,
        samples=measured.samples,
        tile=subject.tile,
        peak_memory_bytes=peak,
        side=here.side,
        order=here.order,
        kernels=kernels.hash,
        compile_seconds=kernels.seconds if kernels.compiled else None,
        clock=measured.clock,
    )
    records.append_line(folder / "timing.jsonl", timing)
    if stages := subject.stages():
        records.append_line(folder / "stages.jsonl", records.Stages(**common, seconds=stages))
    if ops := subject.ops():
        records.append_line(folder / "ops.jsonl", records.Stages(**common, seconds=ops))
    # Undocumented: asv treats samples from track_* as it treats its own timings.
    return {"samples": measured.samples, "number": 1}


def _look(entry: profiles.Benchmark, params: dict[str, str], subject: Subject) -> None:
    """Record what one call runs, untimed."""
    here, kernels = overlay.current(), _compiled()
    seen = launches.digest(launches.launches(subject.calls[0], subject.device))
    found = records.Look(entry.name, params, here.commit, here.fingerprint, here.side, kernels.hash, seen)
    records.append_line(Path(here.records) / "looks.jsonl", found)


@functools.cache
def _compiled() -> compiled.Compiled:
    """What this process compiled since it was first asked for: a process measures one series."""
    return compiled.listen()
