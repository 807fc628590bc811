"""Histories without a clock: every number of every commit is what a test says it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.records import Environment, Provenance, Run, Series, Timing, Value, append_line, write_json
from reports import history, trend
from reports.accepted import Accepted
from reports.joint import Joint
from reports.trend import Commit, Event, Trend

HERE = Environment("gpu", "Linux", "a CPU", 2, "3.11.7", "2.11.0", "3.6.0", "2.3.5", "a GPU", "570", "13.0")
QKV = Series("linear.track_seconds", {"layer": "qkv", "impl": "fused"})
SSIM = Series("quality.track_ssim", {"task": "t2i"})
MEMORY = Series("mlp.track_peak_memory", {"impl": "fused"})
UNITS = {SSIM.benchmark: "ssim", MEMORY.benchmark: "bytes"}
TODAY = date(2026, 11, 24)


def commit(number: int) -> str:
    """A full hash that says its number."""
    return f"{number:040x}"


@dataclass
class Told:
    """A results folder that grows by nights, one commit each."""

    path: Path
    environment: Environment = HERE

    def night(
        self,
        number: int,
        figures: Sequence[float],
        series: Series = QKV,
        environment: Environment = HERE,
        *,
        protocol: int = 1,
        stored: bool = True,
        occasion: str = "",
        kernels: str = "",
        tile: str = "",
    ) -> Path:
        folder = self.path / "runs" / (occasion or f"2026{number:04}T020000Z-{commit(number)[:8]}")
        made = Provenance(commit(number), not stored, environment, protocol, 0, "", "motbench nightly")
        write_json(folder / "run.json", Run(folder.name, "", "", stored, made, []))
        for pid, figure in enumerate(figures):
            common = (series.benchmark, series.params, commit(number), environment.fingerprint, protocol, pid, pid, "")
            if unit := UNITS.get(series.benchmark):
                append_line(folder / "values.jsonl", Value(*common, value=figure, unit=unit))
            else:
                append_line(folder / "timing.jsonl", Timing(*common, samples=[figure], tile=tile, kernels=kernels))
        return folder

    def nights(self, figures: Sequence[float], noise: float = 0.002, first: int = 0, **other: object) -> None:
        """One night per figure, three processes each, with normal noise of every process."""
        rng = np.random.default_rng(1)
        for i, figure in enumerate(figures):
            self.night(first + i, (figure * np.exp(noise * rng.standard_normal(3))).tolist(), **other)  # type: ignore[arg-type]

    def trend(
        self,
        n: int,
        touching: Callable[[int], bool] = lambda number: True,
        joints: Sequence[Joint] = (),
        accepted: Sequence[Accepted] = (),
    ) -> Trend:
        order = {commit(i): i for i in range(n)}

        def between(before: str, after: str) -> list[Commit]:
            numbers = range(order[before] + 1, order[after] + 1)
            return [Commit(commit(i), f"change {i}", ["mot_impl"] if touching(i) else []) for i in numbers]

        known = trend.Known(order, between, list(joints), accepted, TODAY)
        return trend.judge(history.read(self.path, order), known, "2026-11-24")

    def events(self, n: int, **other: object) -> list[Event]:
        return self.trend(n, **other).events  # type: ignore[arg-type]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "results")


@pytest.fixture
def numbered() -> Callable[[int], str]:
    return commit


@pytest.fixture
def new_driver() -> Environment:
    return replace(HERE, driver="580")


@pytest.fixture
def new_torch() -> Environment:
    return replace(HERE, torch="2.12.0")


@pytest.fixture
def ssim() -> Series:
    return SSIM


@pytest.fixture
def qkv() -> Series:
    return QKV


@pytest.fixture
def memory() -> Series:
    return MEMORY
