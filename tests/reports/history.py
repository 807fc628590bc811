"""A made-up history: many commits, many series, with a step, a change of the environment and a failure in it."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator
from datetime import date
from itertools import islice

import numpy as np

from benchmarks.harness.records import Series
from reports import history, trend
from reports.history import History, Line, Point

OLD, NEW = "0123456789ab", "ba9876543210"
GPU, CPU = "NVIDIA H100 80GB HBM3, 16 cores", "AMD EPYC 7B13, 2 cores"
STEP = "linear.track_seconds('qkv', 'fused', '4098', 'cold')"
"""The series that becomes 4 % slower at three quarters of the history."""


def commits(n: int) -> list[str]:
    """n hashes, oldest first."""
    return [hashlib.sha1(str(i).encode()).hexdigest() for i in range(n)]


def series() -> Iterator[tuple[Series, str, str, str]]:
    """(series, unit, profile, hardware), without an end."""
    for copy in range(100):
        shapes = ["1026", "4098", "8208"] if copy == 0 else [str(1026 * (copy + 3) + i) for i in range(3)]
        for shape in shapes:
            for impl in ("reference", "fused"):
                for cache in ("cold", "hot"):
                    for layer in ("qkv", "o", "gate_up", "down"):
                        params = {"layer": layer, "impl": impl, "shape": shape, "cache": cache}
                        yield Series("linear.track_seconds", params), "seconds", "gpu", GPU
                yield Series("layer.track_seconds", {"impl": impl, "shape": shape}), "seconds", "gpu", GPU
                yield Series("mlp.track_peak_memory", {"impl": impl, "shape": shape}), "bytes", "gpu", GPU
        if copy == 0:
            for task in ("t2i", "img2img"):
                yield Series("quality.track_ssim", {"task": task}), "ssim", "gpu", GPU
                for impl in ("reference", "fused"):
                    yield Series("generate.track_seconds", {"task": task, "impl": impl}), "seconds", "gpu", GPU
                yield Series("generate.track_seconds", {"task": task, "impl": "reference"}), "seconds", "cpu", CPU


def made(n_commits: int, n_series: int, processes: int = 3, noise: float = 0.004) -> History:
    """The history: the environment changes at half of it, one series steps at three quarters, another fails once."""
    every = commits(n_commits)
    found = History()
    found.environments = {OLD[:6]: {"torch": "2.10.0", "driver": "570"}, NEW[:6]: {"torch": "2.11.0", "driver": "580"}}
    for one, unit, profile, hardware in islice(series(), n_series):
        alike = one.label.replace("'fused'", "'reference'")  # twins take about as long
        base = math.exp(np.random.default_rng(zlib.crc32(alike.encode())).uniform(math.log(2e-5), math.log(2e-3)))
        base *= 0.7 if "'fused'" in one.label else 1.0
        rng = np.random.default_rng(zlib.crc32(f"{one.label} {hardware}".encode()))
        points = []
        for i, commit in enumerate(every):
            level = base * (0.97 if i >= n_commits // 2 else 1.0)
            level *= 1.04 if one.label == STEP and i >= n_commits * 3 // 4 else 1.0
            values = [level * (1 + noise * float(z)) for z in rng.standard_normal(processes)]
            if unit == "bytes":
                values = [4e8]
            elif unit == "ssim":
                values = [0.99997]
            failed = "'down'" in one.label and "'hot'" in one.label and i == n_commits // 3
            fingerprint = NEW if i >= n_commits // 2 else OLD
            points.append(Point(commit, f"run {i}", fingerprint, 1, [] if failed else values, failed))
        found.lines.append(Line(one, unit, profile, hardware, points))
    return found


def judged(n_commits: int, n_series: int) -> trend.Trend:
    """The same, judged as `motbench trend` does; every commit touches the fused kernels."""
    every = commits(n_commits)
    order = {commit: i for i, commit in enumerate(every)}

    def between(before: str, after: str) -> list[trend.Commit]:
        span = every[order[before] + 1 : order[after] + 1]
        return [trend.Commit(commit, "kernels: Change something", ["reference_impl"]) for commit in span]

    known = trend.Known(order, between, [], [], date(2026, 11, 24))
    return trend.judge(made(n_commits, n_series), known, "2026-11-24T02:00:00.000+00:00")


__all__ = ["STEP", "commits", "history", "judged", "made"]
