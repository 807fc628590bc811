"""Realistic results folders, written with the same records and the same series as the main job."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.harness import profiles
from benchmarks.harness.records import (
    Ceilings,
    Check,
    Conformance,
    Control,
    Detection,
    Difference,
    Drift,
    DriftStep,
    Environment,
    Golden,
    GoldenWatch,
    KnownGood,
    LatentError,
    Parity,
    Profile,
    Provenance,
    Rate,
    Roofline,
    RooflinePoint,
    Run,
    Selftest,
    Series,
    Stages,
    StaleLimit,
    Status,
    Step,
    Timing,
    Value,
    append_line,
    write_json,
)
from reports import joint, site, verdict
from tests.reports import full_size, history

CPU = Environment("cpu", "Linux, Debian 12", "AMD EPYC 7B13", 2, "3.11.7", "2.13.0+cpu", "3.6.0", "2.3.5")
GPU = replace(
    CPU, profile="gpu", gpu="NVIDIA H100 80GB HBM3", driver="580.95.05", cuda="12.8", torch="2.11.0+cu128", cores=16
)
STEPS = [
    Step("doctor", "pass", 1.2),
    Step("conformance", "pass", 48.0),
    Step("parity", "pass", 75.5),
    Step("golden", "pass", 130.0),
    Step("asv", "pass", 96.0),
]
OPS = ("linear/qkv", "rms_norm", "head_rms_norm", "qk_norm_rotary", "gated_linear/gate_up")
CASES = ("mixed", "all_text", "all_image", "empty", "shuffled", "odd_sizes", "nan_in_unused_rows")
PROMPTS = {
    "t2i-lighthouse": "a lighthouse at dusk, oil on canvas",
    "t2i-fox": "a red fox in snow",
    "img2img-night": "make it night",
}


def seconds_of(benchmark: str, params: dict[str, str], scale: float = 1.0) -> float:
    """A plausible time: by subject, by shape, and the fused twin somewhat faster."""
    bases = {"linear": 2e-4, "norm": 2e-5, "mlp": 8e-4, "layer": 2e-3, "generate": 1.5, "full_size": 2e-2}
    base = bases[benchmark.split(".")[0]]
    rows = {"small": 1, "1026": 1.2, "4098": 4.4, "8208": 8.6}.get(params.get("shape", ""), 1)
    fused = 0.62 if params.get("impl") == "fused" else 1.0
    return base * rows * fused * scale


@dataclass(frozen=True)
class Results:
    """A results folder under construction."""

    path: Path

    def folder(self, run_id: str) -> Path:
        return self.path / "runs" / run_id

    def night(
        self,
        day: int,
        commit: str = "0123456789abcdef0123456789abcdef01234567",
        environment: Environment = CPU,
        scale: Callable[[str, dict[str, str]], float] = lambda benchmark, params: 1.0,
        processes: int = 3,
        *,
        protocol: int = 1,
        stored: bool = True,
        judge: bool = True,
    ) -> Path:
        """Write a whole night in which everything passes; `scale` multiplies its times."""
        run_id = f"202611{day:02}T020000Z-{commit[:8]}"
        folder, started = self.folder(run_id), f"2026-11-{day:02}T02:00:00.000+00:00"
        provenance = Provenance(commit, not stored, environment, protocol, 0, started, "motbench nightly")
        run = Run(run_id, started, f"2026-11-{day:02}T02:06:00.000+00:00", stored, provenance, STEPS)
        write_json(folder / "run.json", run)
        write_json(folder / "doctor.json", [Check("python", "ok", "3.11.7"), Check("free memory", "ok", "12 GiB")])
        declared = profiles.declared(environment.profile)
        write_json(folder / "series.json", declared)
        self._numerics(folder, environment)
        self._times(folder, run, declared, scale, processes)
        if judge:
            write_json(folder / "verdict.json", verdict.judge(folder, self.path))
        return folder

    def _numerics(self, folder: Path, environment: Environment) -> None:
        device = "cuda" if environment.profile == "gpu" else "cpu"
        for case in ("t2i_base", "t2i_think", "edit_base", "und_image"):
            fields = [
                Difference("x_t", 1.2e-6, 2e-7, 1e-4, None, True),
                Difference("tokens", 0.0, 0.0, 0.0, None, True),
            ]
            replayed = Conformance(case, "reference", "cpu", "float32", True, 2.9, fields)
            append_line(folder / "conformance.jsonl", replayed)
        rng = np.random.default_rng(0)
        for op in OPS:
            for dtype in ("float32", "float16"):
                for case in CASES:
                    near = float(rng.beta(2, 5))
                    record = Parity(
                        op,
                        case,
                        "fused",
                        device,
                        dtype,
                        "32x64x32 w4 s1 (heuristic)",
                        near * 1e-5,
                        near * 2e-6,
                        1e-5,
                        2e-6,
                        True,
                    )
                    append_line(folder / "parity.jsonl", record)
        write_json(folder / "selftest.json", selftest())
        write_json(folder / "golden_watch.json", WATCH)
        append_line(folder / "drift.jsonl", traced(device))
        for case, prompt in PROMPTS.items():
            pictures = write_pictures(folder, case)
            for impl, against in (("reference", "golden"), ("fused", "reference")):
                record = replace(golden(case, prompt, impl, against, pictures), device=device)
                append_line(folder / "golden.jsonl", record)

    def _times(
        self, folder: Path, run: Run, declared: Profile, scale: Callable[[str, dict[str, str]], float], processes: int
    ) -> None:
        p, rng = run.provenance, np.random.default_rng(int(run.run_id[6:8]))
        for series in declared.expected:
            unit = profiles.SUITE[series.benchmark].unit
            for i in range(processes):
                common: dict[str, Any] = {
                    "benchmark": series.benchmark,
                    "params": series.params,
                    "commit": p.commit,
                    "fingerprint": p.environment.fingerprint,
                    "protocol": p.protocol,
                    "round": i,
                    "pid": 1000 + i,
                    "created": run.started,
                }
                if unit == "seconds":
                    centre = seconds_of(series.benchmark, series.params, scale(series.benchmark, series.params))
                    centre *= 1 + 0.004 * float(rng.standard_normal())
                    samples = [centre * (1 + 0.002 * float(z)) for z in rng.standard_normal(10)]
                    record = Timing(
                        **common, samples=samples, tile="64x64x32 w4 s2 (tuned for H100)", peak_memory_bytes=412 * 2**20
                    )
                    append_line(folder / "timing.jsonl", record)
                else:
                    value = {"bytes": 3e8, "of 255": 1.0, "ssim": 0.99997}[unit]
                    append_line(folder / "values.jsonl", Value(**common, value=value, unit=unit))

    def rewrite(self, folder: Path, name: str, records: Iterable[Any]) -> None:
        """Replace a JSON-lines file."""
        (folder / name).unlink(missing_ok=True)
        (folder / name).touch()
        for record in records:
            append_line(folder / name, record)

    def asv(
        self, commit: str, rows: dict[str, tuple[list[Any] | None, list[list[str]], list[str], str]], day: int
    ) -> None:
        """An asv result file: benchmark -> (values, params as repr, names, unit)."""
        (self.path / "asv" / "machine").mkdir(parents=True, exist_ok=True)
        at = int(datetime(2026, 11, day, 2, 3, tzinfo=UTC).timestamp() * 1000)
        data = {
            "commit_hash": commit,
            "result_columns": ["result", "params", "version", "started_at", "duration"],
            "results": {name: [values, params, "protocol 1", at] for name, (values, params, _, _) in rows.items()},
            "version": 2,
        }
        described = {name: {"param_names": names, "unit": unit} for name, (_, _, names, unit) in rows.items()}
        (self.path / "asv" / "machine" / f"{commit[:8]}-overlay.json").write_text(json.dumps(data))
        (self.path / "asv" / "benchmarks.json").write_text(json.dumps({**described, "version": 2}))


KNOWN = KnownGood(
    "cpu, sdpa, torch 2.13.0",
    320,
    8,
    Rate(1, 320, 0.0002, 0.0147),
    Rate(1, 8, 0.006, 0.47),
    [i / 50 for i in range(1, 41)],
)
"""What the limits of a parity record rest on."""


WATCH = GoldenWatch(
    [Control("another case", "the golden of the fox in place of the lighthouse's", True, "absmax 255")],
    [StaleLimit("t2i-fox", "fused", "reference", "cpu", "float32", 30, 0.12, 0.2)],
)


def traced(device: str) -> Drift:
    """The trace of one picture: three updates, two branches."""
    steps = [DriftStep(i, 3e-7, 7e-7, 1e-7 * (i + 1), 3e-7 * (i + 1), 1.2 if i else math.nan) for i in range(3)]
    branches = {"main": [3e-7] * 3, "no_text": [4e-7] * 3}
    sentence, line = "compatible with reordering (p = 0.4, 12 known-good runs)", "motbench trace t2i-fox"
    own = ("t2i-fox", "fused", "reference", device, "float32", "reference in float64")
    return Drift(*own, "compatible with reordering", sentence, line, steps, branches, [1e-7] * 3, [])


def selftest(status: Status = "pass", reason: str = "") -> Selftest:
    """Two classes of faults, one of them missed unless all passes, and one family of good runs."""
    everything, nothing = Rate(6, 6, 0.607, 1.0), Rate(0, 6, 0.0, 0.393)
    missed = everything if status == "pass" else nothing

    def one(name: str, what: str, tier: str, seen: Rate) -> Detection:
        tiers = {"op parity": seen if tier == "op parity" else nothing, "fp32 trace": nothing, "picture": nothing}
        tiers |= {tier: seen} if tier else {}
        wrong = [] if seen.seen or not tier else [f"motbench golden selftest --fault {name}"]
        metrics, gates = {"ssim": nothing, "flip_mean": everything}, {"mean under 10": nothing}
        return Detection(name, what, "implementation" if tier else "", tier, seen, tiers, metrics, gates, wrong)  # type: ignore[arg-type]

    faults = [
        one("dropped-bias", "the bias of qkv is left out", "op parity", everything),
        one("one-token", "one image token goes to the text expert", "picture", missed),
    ]
    good = [one("reordered", "another order of summation", "", nothing)]
    alarms = one("all good runs", "", "", nothing)
    line = "motbench golden selftest --form reduced"
    return Selftest(
        "reduced", "reference", "cpu", "float32", ["t2i-fox"], faults, good, alarms, status, reason, line, 41.0
    )


def golden(case: str, prompt: str, impl: str, against: str, pictures: dict[str, str]) -> Golden:
    """A passing record with every metric."""
    metrics = {"absmax": 3.0, "p99_9": 2.0, "mean": 0.04, "psnr": 52.3, "ssim": 0.9991, "ssim_worst_tile": 0.994}
    metrics |= {"flip_mean": 0.002, "bias_red": 0.01}
    limits = {"absmax": 8.0, "mean": 0.5, "psnr": 40.0, "ssim": 0.99, "ssim_worst_tile": 0.97}
    return Golden(
        case=case,
        task="img2img" if case.startswith("img2img") else "t2i",
        prompt=prompt,
        impl=impl,
        against=against,  # type: ignore[arg-type]
        status="pass",
        reason="",
        reproduce=f"motbench golden check --case {case} --impl {impl}",
        metrics=metrics,
        limits=limits,
        metric_versions={"ssim": "skimage-gaussian-1"},
        identical=False,
        pictures=pictures,
        seconds=4.2,
        golden_provenance={"commit": "aaaaaaaa", "approved": "first golden"},
        device="cpu",
        dtype="float32",
        amplified=16,
        words="compatible with reordering (p = 0.4, 320 known-good runs)",
        score=0.38,
        p=0.4,
        known_good=KNOWN if against == "reference" else None,
        latents=[LatentError("x_t", step, 1e-6 * (step + 1), 1 - 1e-9, 3e-6) for step in range(3 * (impl == "fused"))],
    )


def write_pictures(folder: Path, case: str, fault: bool = False) -> dict[str, str]:
    """Four 64x64 PNGs: a soft scene, the same with a fault or not, the amplified difference, and a map of it."""
    y, x = np.mgrid[0:64, 0:64] / 63.0
    seed = sum(map(ord, case))
    sun = np.exp(-(((x - 0.3 - seed % 5 / 10) ** 2 + (y - 0.35) ** 2) / 0.02))
    scene = np.stack([0.25 + 0.6 * y + 0.5 * sun, 0.3 + 0.35 * y + 0.4 * sun, 0.55 - 0.3 * y + 0.1 * sun], -1)
    expected = (255 * np.clip(scene, 0, 1)).astype(np.uint8)
    actual = expected.copy()
    actual[::9, ::7] ^= 1
    if fault:
        actual[32:48, 16:32] = 255 - actual[32:48, 16:32]
    difference = np.clip(np.abs(actual.astype(int) - expected.astype(int)) * 16, 0, 255).astype(np.uint8)
    flip = np.stack([difference.max(-1)] * 3, -1)
    names = {}
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    drawn = {"expected": expected, "actual": actual, "difference": difference, "flip": flip}
    for name, pixels in drawn.items():
        names[name] = f"pictures/{case}-{name}.png"
        Image.fromarray(pixels).save(folder / names[name])
    return names


def roofline() -> Roofline:
    """Two kernels on one card."""
    provenance = Provenance("b" * 40, False, GPU, 1, 0, "2026-11-02T02:00:00.000+00:00", "motbench roofline")
    samples = {"fused": [6e-5], "dense": [5e-5], "gather/scatter": [1e-4], "two cuBLAS, sorted": [6.4e-5]}
    points = [
        RooflinePoint(1026, 2, name, "128x256x64 w8 s4 (tuned for H100)", 3.4e10, 8e7, samples)
        for name in ("qkv", "down")
    ]
    return Roofline(provenance, "bfloat16", Ceilings(8e14, 2.4e12), points)


def of_fp8(run: Roofline) -> Roofline:
    """The same with experts of fp8, in half the time."""
    halved = {name: [value / 2 for value in values] for name, values in run.points[0].samples.items()}
    points = [replace(point, kind="fp8", samples=halved) for point in run.points]
    return replace(run, ceilings=replace(run.ceilings, fp8=1.6e15), points=[*run.points, *points])


def compared(folder: Path) -> None:
    """The decision of a comparison in which one series is 5 % slower, and which op made it so."""
    one = Series("linear.track_seconds", {"layer": "qkv", "impl": "fused", "shape": "4098", "cache": "hot"})
    asked = joint.Asked("a" * 40, "b" * 40, GPU, 1, [one], [0.005], "2026-11-02T03:00:00.000+00:00", "motbench compare")
    joint.write(folder, asked)
    for i in range(6):
        for order, (side, factor) in enumerate((("base", 1.0), ("again", 1.001), ("head", 1.05))):
            commit = asked.head if side == "head" else asked.base
            seconds = 1e-4 * factor * (1 + 0.0005 * (i % 3))
            common = (one.benchmark, one.params, commit, GPU.fingerprint, 1, i, order, "")
            append_line(folder / "timing.jsonl", Timing(*common, [seconds], "t", side=side, order=order))
            append_line(folder / "ops.jsonl", Stages(*common, {"attention": seconds - 5e-5, "rms_norm": 2e-5}))
    write_json(folder / joint.VERDICT, joint.judge(folder, [], date(2026, 11, 2), with_image=False))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """An empty results folder."""
    (tmp_path / "results").mkdir()
    return Results(tmp_path / "results")


@pytest.fixture(scope="session")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two nights on a GPU, a history, a roofline, a comparison, and records of the whole model."""
    results = Results(tmp_path_factory.mktemp("two"))
    results.night(1, "a" * 40, GPU)
    folder = results.night(2, "b" * 40, GPU)
    for impl in ("reference", "fused"):
        seconds = {"preparing": 0.01, "context: text": 0.1, "denoising": 1.2, "autoencoder, decoding": 0.2}
        params = {"task": "t2i", "impl": impl}
        one = Stages("generate.track_seconds", params, "b" * 40, GPU.fingerprint, 1, 0, 1, "", seconds)
        append_line(folder / "stages.jsonl", one)
    write_json(results.path / "trend.json", history.judged(40, 40))
    write_json(results.path / "roofline" / "one.json", of_fp8(roofline()))
    compared(results.path / "comparisons" / "one")
    full_size.write(results.path, GPU)
    return site.build(results.path, results.path / "site").parent
