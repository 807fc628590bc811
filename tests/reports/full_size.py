"""Records of the whole model, as `step-time`, `picture-time` and `serve-bench` write them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness.records import Ceilings, Environment, Provenance, write_json

FUSED, EAGER, DENSE = "fused", "gather/scatter, eager", "dense, compiled + graph"
HOSTILE = "<script>alert(1)</script>"


def made_by(environment: Environment, command: str) -> Provenance:
    return Provenance("c" * 40, False, environment, 2, 0, "2026-11-02T04:00:00.000+00:00", f"motbench {command}")


def steps(environment: Environment) -> Any:
    """One size in three ways; a fourth failed."""
    from benchmarks.harness.step_time import StepPoint, StepTimes

    point = StepPoint(1026, 40, flops=1.6e13, span=0.02, busy=0.019, peak_bytes=3 << 30)
    point.errors = {"reference": 0.0150, "fused": 0.0146}
    point.samples = {FUSED: [0.024, 0.025, 0.026], EAGER: [0.1] * 3, f"{FUSED}, with a guidance branch": [0.05] * 3}
    point.failed = {DENSE: HOSTILE}
    return StepTimes(made_by(environment, "step-time"), "bfloat16", 28, Ceilings(8e14, 2.4e12), [point])


def pictures(environment: Environment) -> Any:
    """One task in two ways, by stage."""
    from benchmarks.harness.picture_time import PicturePoint, PictureTimes

    point = PicturePoint("t2i-512", 50, peak_bytes=30 << 30)
    point.samples = {FUSED: [2.0, 2.2], EAGER: [6.3, 6.3]}
    point.stages = {
        FUSED: {"denoising": 0.3, "decoding": 0.1},
        EAGER: {"context": 0.2, "denoising": 0.5, "decoding": 0.1},
    }
    return PictureTimes(made_by(environment, "picture-time"), "bfloat16", 28, 29 << 30, [point])


def served(environment: Environment, concurrency: int, failed: int = 0) -> dict[str, Any]:
    """Twelve requests, each of which takes as many seconds as there are at once."""
    from serving.figures import summary
    from serving.load import Answer, Load

    answers = [
        Answer(i, float(i), float(i), i + concurrency, "timeout" if i < failed else "", "" if i >= failed else "late")
        for i in range(12)
    ]
    about = {"impl": "fused", "dtype": "bfloat16", "kind": "fp8", "model": "bagel-7b"}
    fields = (("size", "512x512"), ("num_inference_steps", 50))
    load = Load("http://127.0.0.1:8000", concurrency, None, 600.0, 0, fields)
    return {
        "task": "t2i",
        "load": asdict(load) | {"fields": dict(fields)},
        "server": about | {"provenance": asdict(made_by(environment, "serve"))},
        "client": asdict(made_by(environment, "serve-bench")),
        "summary": summary(answers),
        "requests": [asdict(answer) for answer in answers],
    }


def write(results: Path, environment: Environment) -> None:
    """One record of steps, one of pictures and two of a server."""
    write_json(results / "step" / "one.json", steps(environment))
    write_json(results / "pictures" / "one.json", pictures(environment))
    for concurrency in (1, 4):
        write_json(results / "serving" / f"{concurrency}.json", served(environment, concurrency))
