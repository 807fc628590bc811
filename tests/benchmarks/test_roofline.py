"""What `motbench roofline` makes of its samples, and what it refuses; the measuring itself needs a GPU."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import reference_impl
from benchmarks.harness import records, roofline, roofline_told
from benchmarks.harness.shapes import LAYERS, SHAPES, Shape

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
    told = roofline_told.summary([point(1, 1, fused=[1.0], **others)])
    assert told[0].endswith(
        "faster than gather/scatter, two cuBLAS, sorted at 1 of 1; torch._grouped_mm was not measured"
    )


@pytest.mark.parametrize(
    ("sizes", "layers", "wrong"), [(["77"], ["qkv"], "size '77'"), (["small"], ["k"], "layer 'k'")]
)
def test_an_unknown_name_is_refused(sizes, layers, wrong):
    import torch

    with pytest.raises(ValueError, match=wrong):
        next(roofline.measure(roofline.Measured(reference_impl.OPS, torch.bfloat16), sizes, layers, LIMITS))


def test_an_unknown_kind_is_refused():
    import torch

    with pytest.raises(ValueError, match="kind 'int4' is not one of dense, fp8, int8"):
        next(roofline.measure(roofline.Measured(reference_impl.OPS, torch.bfloat16), ["1026"], ["o"], LIMITS, "int4"))


@pytest.fixture
def ran(monkeypatch):
    """A CPU in place of the GPU: every candidate runs once, and takes a second."""
    import torch

    def interleaved(candidates, rounds, mhz=None):
        for calls in candidates.values():
            assert calls[0]() is not None
        return {name: [1.0] for name in candidates}

    monkeypatch.setattr(roofline, "interleaved", interleaved)
    monkeypatch.setattr(roofline, "_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(roofline, "_copies", lambda first: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=132))
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    return roofline.Measured(reference_impl.OPS, torch.bfloat16, exact=reference_impl.OPS)


SMALL = SHAPES["small"]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("kind", "ways"),
    [
        ("dense", {"fused", "dense", "gather/scatter", "two cuBLAS, sorted"}),
        ("fp8", {"fused", roofline.EXACT, roofline.UNQUANTISED, "dense"}),
        ("int8", {"fused", roofline.UNQUANTISED, "dense"}),
    ],
)
def test_a_kind_is_measured_against_dense_experts(ran, layer, kind, ways):
    found = roofline.layer_point(ran, SMALL, layer, LIMITS, kind)
    assert (found.kind, found.samples.keys() - {roofline.COMPILED}) == (kind, ways)


@pytest.mark.parametrize(("tile", "measured"), [("64x64x32 w4 s3", True), ("128x256x64 w8 s4", False)])
def test_the_rules_tile_is_measured_where_it_is_another(ran, tile, measured):
    tuned, rule = (
        dataclasses.replace(reference_impl.OPS, describe_tile=lambda problem, told=told: told)
        for told in ("128x256x64 w8 s4 (tuned: card.json, M=64)", f"{tile} (heuristic)")
    )
    found = roofline.layer_point(dataclasses.replace(ran, ops=tuned, rule=rule), SMALL, "o", LIMITS)
    assert (found.tile.endswith("(tuned: card.json, M=64)"), roofline.RULE in found.samples) == (True, measured)


def test_quantised_weights_are_counted_with_one_byte(ran):
    found = {kind: roofline.layer_point(ran, SMALL, "o", LIMITS, kind).bytes for kind in ("dense", "fp8", "int8")}
    n, k = SMALL.layer("o")
    assert (found["dense"] - found["int8"], found["int8"] - found["fp8"]) == (2 * n * k, SMALL.m * k)


@pytest.mark.parametrize("name", [name for names in roofline.MEMORY_OPS.values() for name in names])
def test_every_op_that_moves_bytes_is_measured_beside_a_copy(ran, name):
    assert roofline.memory_point(ran, SMALL, name).samples.keys() == {"fused", "copy"}


def test_quantising_reads_two_bytes_and_writes_one_and_a_scale(ran):
    found = roofline.memory_point(ran, SMALL, "quantise_rows")
    assert found.bytes == SMALL.m * (3 * SMALL.hidden + 4)


def test_an_implementation_that_disagrees_is_not_measured(ran):
    wrong = dataclasses.replace(reference_impl.OPS, name="wrong", linear=lambda x, experts, route: x.values.bfloat16())
    with pytest.raises(RuntimeError, match="wrong linear disagrees"):
        roofline.layer_point(dataclasses.replace(ran, ops=wrong), SMALL, "o", LIMITS, "fp8")


def test_the_fp8_floor_is_that_of_the_fp8_rate():
    fp8 = dataclasses.replace(point(1600e6, 1.0), kind="fp8")
    assert fp8.floor(records.Ceilings(800e12, 2e12, 1600e12)) == pytest.approx(1e-6)


def test_the_fp8_floor_needs_the_fp8_rate():
    with pytest.raises(ValueError, match="measure the roofline again with --kind fp8"):
        dataclasses.replace(point(1.0, 1.0), kind="fp8").floor(LIMITS)


def test_each_kind_is_told_by_size_against_dense_experts_and_pytorch():
    samples = {"fused": [1.0], roofline.EXACT: [1.5], roofline.UNQUANTISED: [1.8], roofline.SCALED: [1.2]}
    found = [dataclasses.replace(point(1, 1, **samples), kind="fp8", m=m) for m in (4098, 8208)]
    assert roofline_told.summary(found) == [
        "fp8, fused: 1.800 times as fast as fused, dense experts (4098: 1.800, 8208: 1.800)",
        "fp8, fused: 1.200 times as fast as torch._scaled_mm, fast sums (4098: 1.200, 8208: 1.200)",
        "fp8, fused, exact sums: 1.200 times as fast as fused, dense experts (4098: 1.200, 8208: 1.200)",
    ]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        pytest.param(["--size", "1026", "--size", "77"], "size '77' is not one of", id="size"),
        pytest.param(["--layer", "qvk"], "layer 'qvk' is not one of qkv, o, gate_up, down", id="layer"),
        pytest.param(["--kind", "dense", "--kind", "int4"], "kind 'int4' is not one of dense, fp8, int8", id="kind"),
    ],
)
def test_an_unknown_name_is_refused_before_a_gpu_is_looked_for(option, said):
    command = [sys.executable, "-P", "-m", "motbench", "roofline", *option]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (2, True)


def test_without_a_gpu_the_command_says_so():
    command = [sys.executable, "-m", "motbench", "roofline"]
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "sees no GPU" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("measured", "rival"),
    [
        pytest.param(("fused", records.DENSE, roofline.SCALED), roofline.SCALED, id="fp8"),
        pytest.param(("fused", records.DENSE, roofline.UNQUANTISED), records.DENSE, id="fp8-without-PyTorchs-product"),
    ],
)
def test_a_layer_is_explained_beside_what_was_measured(measured, rival):
    assert roofline.rival_of(measured) == rival


@pytest.mark.gpu
@pytest.mark.parametrize("layer", ["qkv", "gate_up"])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, "bfloat16") for kind in roofline.KINDS), ("fp8", "float16")],
)
def test_a_layer_is_measured_and_explained_on_a_gpu(kind, dtype, layer):
    import torch

    import mot_impl
    from mot_impl.tiles import TileTable

    table = TileTable.load(None)
    exact = mot_impl.fused_ops(table, "exact")
    precision = getattr(torch, dtype)
    of = roofline.Measured(mot_impl.OPS, precision, 3, exact, mot_impl.fused_ops(TileTable()), table)
    limits = roofline.ceilings(precision, roofline.KINDS)
    shape = Shape(514, 2, hidden=1024, n_heads=8, n_kv_heads=2, head_dim=128, intermediate=2048)
    found = roofline.layer_point(of, shape, layer, limits, kind)
    parts = found.explained
    assert parts is not None, found.tile
    assert parts.arithmetic + sum(parts.parts.values()) == pytest.approx(found.median("fused"))
