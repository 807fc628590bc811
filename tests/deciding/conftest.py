"""A comparison's records without a clock: every sample is what a test says it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.records import (
    Environment,
    Failure,
    Golden,
    Parity,
    Provenance,
    Run,
    Series,
    Step,
    Timing,
    append_line,
    write_json,
)
from reports import joint
from reports.decide import Rounds

HERE = Environment("gpu", "Linux", "a CPU", 2, "3.11.7", "2.11.0", "3.6.0", "2.3.5", "a GPU", "580", "13.0")
BASE, HEAD = "a" * 40, "b" * 40
QKV = Series("linear.track_seconds", {"layer": "qkv", "impl": "fused"})
RMS = Series("norm.track_seconds", {"kind": "rms", "impl": "fused"})
TODAY = date(2026, 11, 24)


def made(slower: float = 0.0, noise: float = 0.002, n: int = 12, seed: int = 1, series: Series = QKV) -> Rounds:
    """Rounds with normal noise of every process, and a head that is slower by a fraction."""
    seconds = np.exp(noise * np.random.default_rng(seed).standard_normal((n, 3))) * [1, 1 + slower, 1]
    return Rounds(series, [(base, head, again) for base, head, again in seconds.tolist()])


@dataclass
class Comparison:
    """A folder as `motbench compare` leaves it."""

    folder: Path

    def asked(self, *series: Series, smallest: float = 0.005, head: str = HEAD) -> None:
        command = "motbench compare a b"
        least = [smallest] * len(series)
        joint.write(self.folder, joint.Asked(BASE, head, HERE, 1, list(series), least, "2026-11-24", command))

    def line(self, series: Series, side: str, number: int, seconds: Sequence[float], **other: object) -> None:
        common = {"commit": HEAD if side == "head" else BASE, "fingerprint": HERE.fingerprint, "protocol": 1}
        values = common | {"pid": number} | other
        record = Timing(
            benchmark=series.benchmark,
            params=series.params,
            round=number,
            created="",
            samples=list(seconds),
            tile="",
            side=side,
            **values,  # type: ignore[arg-type]
        )
        append_line(self.folder / "timing.jsonl", record)

    def measured(self, rounds: Rounds, head: str = HEAD) -> None:
        for number, seconds in enumerate(rounds.seconds):
            for side, value in zip(("base", "head", "again"), seconds, strict=True):
                self.line(rounds.series, side, number, [value], commit=head if side == "head" else BASE)

    def failed(self, series: Series, side: str, kind: str = "broken", reason: str = "RuntimeError: broken") -> None:
        commit = HEAD if side == "head" else BASE
        append_line(
            self.folder / "failures.jsonl",
            Failure(series.benchmark, series.params, commit, side, 0, kind, reason),  # type: ignore[arg-type]
        )

    def numerics(self, parity: bool = True, golden: str = "pass") -> None:
        steps = [Step("parity", "pass" if parity else "regressed", 1.0), Step("golden", golden, 1.0)]  # type: ignore[arg-type]
        run = Run(self.folder.name, "", "", True, Provenance(HEAD, False, HERE, 1, 0, "", ""), steps)
        write_json(self.folder / "run.json", run)
        worst = 1e-6 if parity else 1.0
        record = Parity("linear/qkv", "mixed", "fused", "cuda", "bfloat16", "t", worst, 1e-6, 1e-5, 1e-5, parity)
        append_line(self.folder / "parity.jsonl", record)
        for against in ("reference", "golden"):
            append_line(self.folder / "golden.jsonl", _golden(against, golden))

    def judge(self, with_image: bool = False) -> joint.Joint:
        return joint.judge(self.folder, [], TODAY, with_image)


def _golden(against: str, status: str) -> Golden:
    return Golden(
        case="fox",
        task="t2i",
        prompt="a fox",
        impl="fused",
        against=against,  # type: ignore[arg-type]
        status=status,  # type: ignore[arg-type]
        reason="" if status == "pass" else "absmax 12 (limit 8)",
        reproduce="motbench golden check --case fox",
        metrics={"absmax": 3.0},
        limits={"absmax": 8.0},
        metric_versions={},
        identical=False,
        pictures={},
        seconds=1.0,
    )


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return Comparison(tmp_path / "results" / "comparisons" / "one")


@pytest.fixture
def rounds() -> Callable[..., Rounds]:
    return made


@pytest.fixture
def qkv() -> Series:
    return QKV


@pytest.fixture
def rms() -> Series:
    return RMS
