"""Slowdowns that are really there: the same work with a sleep of known length behind it, in real processes.

`motbench gate --selftest --inject` measures them as a comparison of a commit with itself, and judges them as one: what
it calls is what it can see on this machine. One process measures every series once as it is (the A/A pair of three
processes a round), and once per fraction with a sleep of that fraction of its own time, if it is the round's head.

    records/nothing/timing.jsonl              base, head and again as they are
    records/slower-by-1-percent/timing.jsonl  base and again as they are, head with 1 % of its time added

A process imports and draws its inputs, says that it is ready, and touches the device only when it is told its turn.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import clock, compiled, environment, gpu_clock
from benchmarks.harness.impls import FUSED, REFERENCE
from benchmarks.harness.records import Clock, Series, Timing, append_line, from_dict

FRACTIONS = (0.01, 0.02, 0.03, 0.05)
"""Slowdowns that are injected, of a call's own time."""
NOTHING = "nothing"
"""Folder of the records in which nothing was added."""
ROUGH = clock.Rule(target=1.0, least=3, most=3, limit=0.0)
LAUNCHES = 50
"""Sleeps in the graph that shows what launching one costs."""


def _series(benchmark: str, **params: str) -> Series:
    return Series(f"{benchmark}.track_seconds", params)


SERIES = {
    "gpu": [
        _series("norm", kind="rms", impl=FUSED, shape="4098", cache="hot"),
        _series("linear", layer="qkv", impl=FUSED, shape="4098", cache="hot"),
    ],
    "cpu": [
        _series("norm", kind="rms", impl=REFERENCE, shape="small", cache="hot"),
        _series("linear", layer="qkv", impl=REFERENCE, shape="small", cache="hot"),
    ],
}
"""What is measured, by profile: series of the suite, a short one and a long one."""


@dataclass(frozen=True)
class Plan:
    """What all processes of one self-test share. records: the folder whose folders timing.jsonl grow in."""

    records: str
    commit: str
    fingerprint: str
    profile: Literal["cpu", "gpu"]
    series: list[Series]
    fractions: list[float]


@dataclass(frozen=True)
class Turn:
    """One process's place: side and order in its round; an empty side only proves parity and compiles.

    inject  whether this round measures the slowdowns too
    """

    side: str
    round: int = 0
    order: int = 0
    inject: bool = True


def folder_of(fraction: float) -> str:
    """Name of the folder of one slowdown."""
    return f"slower-by-{100 * fraction:.0f}-percent" if fraction else NOTHING


@dataclass(frozen=True)
class Work:
    """A series built in this process: `repeat` calls last as long as one sample of the suite."""

    series: Series
    calls: Sequence[Callable[[], object]]
    device: str
    repeat: int

    def measure(self, extra: float, mhz: float | None) -> tuple[list[float], Clock | None]:
        """Seconds per call, with `extra` seconds of sleep behind every `repeat` calls; mhz: the clock, where known."""

        pause = sleep(extra, self.device, mhz)

        def work() -> object:
            for _ in range(self.repeat - 1):
                self.calls[0]()
            last = self.calls[0]()
            pause()
            return last

        if self.device == "cpu":
            samples, seen = clock.measure_cpu(work), None
        else:
            samples, seen = gpu_clock.measure([work], "hot")
        return [sample / self.repeat for sample in samples], seen


def build(series: Series, profile: str) -> tuple[Work, Callable[[], object]]:
    """The series' work on this profile's device, and what proves its parity."""
    import torch

    from benchmarks.harness import kernels

    place = (torch.device("cpu"), torch.float32) if profile == "cpu" else (torch.device("cuda"), torch.bfloat16)
    subject = kernels.one_op(*_op(series), series.params, place)
    if profile == "cpu":
        rough = min(clock.measure_cpu(subject.calls[0], ROUGH))
        repeat = clock.calls_per_sample(rough, clock.CPU_SAMPLE)
    else:
        with clock.replayed(subject.calls, "hot") as (_, repeat):
            pass
    return Work(series, subject.calls, subject.device, repeat), subject.prove


def take_turn(plan: Plan, turn: Turn) -> None:
    """Measure every series, first as it is and then with each slowdown, and append the records."""
    made = compiled.listen() if plan.profile == "gpu" else compiled.Compiled()
    built = [build(series, plan.profile) for series in plan.series]
    if not turn.side:
        for _, prove in built:
            prove()
        return
    own: dict[int, float] = {}
    clocks: dict[int, float | None] = {}
    for i, (work, _) in enumerate(built):
        samples, seen = work.measure(0.0, None)
        own[i] = min(samples) if plan.profile == "cpu" else statistics.median(samples)
        clocks[i] = seen.usual_mhz if seen else None
        _append(plan, turn, work, 0.0, (samples, seen), made.hash)
    for fraction in plan.fractions if turn.inject else ():
        for i, (work, _) in enumerate(built):
            extra = fraction * own[i] * work.repeat if turn.side == "head" else 0.0
            _append(plan, turn, work, fraction, work.measure(extra, clocks[i]), made.hash)


def _append(
    plan: Plan, turn: Turn, work: Work, fraction: float, measured: tuple[list[float], Clock | None], kernels: str
) -> None:
    samples, seen = measured
    record = Timing(
        work.series.benchmark,
        work.series.params,
        plan.commit,
        plan.fingerprint,
        clock.PROTOCOL,
        turn.round,
        os.getpid(),
        environment.now(),
        samples,
        "",
        side=turn.side,
        order=turn.order,
        kernels=kernels,
        clock=seen,
    )
    append_line(Path(plan.records) / folder_of(fraction) / "timing.jsonl", record)


def _op(series: Series) -> tuple[str, str]:
    """Op of the contract and part of a layer. Raises ValueError for a series that is no single op."""
    if series.benchmark == "linear.track_seconds":
        return "linear", series.params["layer"]
    if series.benchmark == "norm.track_seconds":
        ops: dict[str, str] = importlib.import_module("benchmarks.norm").OPS
        return ops[series.params["kind"]], ""
    raise ValueError(f"{series.label} is neither linear nor norm; a slowdown is injected into one op")


def sleep(seconds: float, device: str, mhz: float | None) -> Callable[[], object]:
    """A call that keeps the device busy for so long, its launch in a graph included; nothing for no seconds."""
    if not seconds:
        return lambda: None
    if device == "cpu":
        return functools.partial(_spin, seconds)
    import torch

    launch, rate = _sleep_costs()
    cycles = round((seconds - launch) * (1e6 * mhz if mhz else rate))
    return functools.partial(torch.cuda._sleep, max(1, cycles))


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@functools.cache
def _sleep_costs() -> tuple[float, float]:
    """Seconds that a sleep costs beside its cycles, and cycles per second: from graphs of short and of long ones."""
    import torch

    def seconds(cycles: int) -> float:
        graph = clock.capture([functools.partial(torch.cuda._sleep, cycles)], LAUNCHES)
        clock.replay_seconds(graph, 5)
        return clock.replay_seconds(graph, 10) / LAUNCHES

    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        short, long = 2_000, 22_000
        one, other = seconds(short), seconds(long)
    rate = (long - short) / (other - one)
    return one - short / rate, rate


def main(arguments: Sequence[str]) -> None:
    """One process: PLAN as JSON, then its turn on standard input; says `ready` and `done`."""
    import torch

    from benchmarks.harness import inputs
    from benchmarks.harness.shapes import SHAPES

    plan: Plan = from_dict(Plan, json.loads(arguments[0]))
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for series in plan.series:  # drawn on the CPU and kept there: seconds that no turn has to wait for
        work = inputs.Work(*_op(series))
        inputs.arguments(work, inputs.bagel_case(SHAPES[series.params["shape"]]), torch.float32, "cpu")
    print("ready", flush=True)
    if line := sys.stdin.readline():
        take_turn(plan, from_dict(Turn, json.loads(line)))
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
