"""What `motbench roofline` makes of its samples, and what it refuses; the measuring itself needs a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import records, roofline
from motbench import roofline as command

ROOT = Path(__file__).parents[2]
LIMITS = records.Ceilings(matrix=800e12, copy=2e12)
STORED = ROOT / "docs/data/roofline_h100_bf16.json"


def point(flops: float, moved: float, **seconds: list[float]) -> records.RooflinePoint:
    return records.RooflinePoint(1026, 2, "qkv", "a tile", flops, moved, seconds)


def test_the_floor_is_arithmetic_where_that_takes_longer():
    assert point(800e6, 1e6).floor(LIMITS) == pytest.approx(1e-6)


def test_the_floor_is_memory_where_that_takes_longer():
    assert point(8e6, 4e6).floor(LIMITS) == pytest.approx(2e-6)


def test_a_candidate_counts_by_its_median():
    assert point(1, 1, fused=[1.0, 9.0, 2.0]).median("fused") == 2.0


def test_half_and_double_are_one_on_average():
    assert roofline.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


def test_the_stored_run_can_be_read():
    stored = records.read_json(STORED, records.Roofline)
    layers = [(one.m, one.name) for one in stored.points if records.DENSE in one.samples]
    assert layers == [(m, layer) for m in (1026, 4098, 8208) for layer in ("qkv", "o", "gate_up", "down")]


def test_the_documented_mean_is_that_of_the_stored_run():
    stored = records.read_json(STORED, records.Roofline)
    ratios = [one.median("fused") / one.median("dense") for one in stored.points if records.DENSE in one.samples]
    said = f"geometric mean {roofline.geometric_mean(ratios):.3f}"
    assert said in (ROOT / "docs/kernels.md").read_text()


@pytest.mark.parametrize(
    ("dtype", "capability", "measured"),
    [
        pytest.param("bfloat16", (9, 0), True, id="bfloat16-on-Hopper"),
        pytest.param("float16", (9, 0), False, id="float16-loops-on-the-host"),
        pytest.param("bfloat16", (8, 0), False, id="Ampere-loops-on-the-host"),
    ],
)
def test_pytorchs_grouped_product_is_measured_where_it_has_one(monkeypatch, dtype, capability, measured):
    """On a CPU that looks like a GPU of that capability: nothing is launched."""
    import torch

    import reference_impl
    from reference_impl.contract import Experts, Route

    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    kind = getattr(torch, dtype)
    x, weight = torch.zeros(4, 8, dtype=kind), torch.zeros(2, 8, 8, dtype=kind)
    arguments = (x, Experts(weight, None), Route.image_then_text(2, 2, x.device))
    ways = roofline._ways(reference_impl.OPS, "linear", [arguments])
    assert (roofline.GROUPED in ways) == measured


def test_a_rival_that_was_not_measured_is_not_said_to_be_beaten():
    others = {name: [2.0] for name in (records.DENSE, records.GATHER, roofline.SORTED)}
    told = command._summary([point(1, 1, fused=[1.0], **others)])
    assert told.endswith("faster than gather/scatter, two cuBLAS, sorted at 1 of 1; torch._grouped_mm was not measured")


@pytest.mark.parametrize(
    ("sizes", "layers", "wrong"), [(["77"], ["qkv"], "size '77'"), (["small"], ["k"], "layer 'k'")]
)
def test_an_unknown_name_is_refused(sizes, layers, wrong):
    import torch

    import reference_impl

    with pytest.raises(ValueError, match=wrong):
        next(roofline.measure(reference_impl.OPS, sizes, layers, torch.bfloat16))


def test_without_a_gpu_the_command_says_so():
    command = [sys.executable, "-m", "motbench", "roofline"]
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "sees no GPU" in done.stderr) == (2, True)
