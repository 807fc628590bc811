"""Layers of fp8 experts against the reference, rows by index; what they refuse. Sorted rows on Hopper: another file."""

import dataclasses
import json

import pytest
import torch

import mot_impl
import mot_impl.device
from benchmarks.harness.gate import compare
from benchmarks.harness.inputs import CASES, WORK, Case, Work, arguments, problem, quantised
from benchmarks.harness.shapes import ODD, SMALL
from mot_impl.device import INTERPRETED
from mot_impl.tiles import TileTable, device_name
from reference_impl.contract import QuantisedRows

pytestmark = pytest.mark.usefixtures("poisoned")

DTYPES = [torch.float32, torch.float16]
"""Of the results, in the interpreter; tests on a GPU add bfloat16."""

LAYERS = [*(work for work in WORK if work.op == "linear"), Work("gated_linear")]
FEW = {
    "one_of_each": Case("one_of_each", SMALL.rows(2, 1)),
    "text_2_of_17": Case("text_2_of_17", SMALL.rows(17, 2), order="shuffled"),
}
EXACT = mot_impl.fused_ops(TileTable.load(None), accumulation="exact")


def inputs(work: Work, case: Case, dtype, device):
    """With rows that are quantised already."""
    return quantised(arguments(work, case, dtype, device), "fp8")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", (CASES | FEW).values(), ids=(CASES | FEW).keys())
@pytest.mark.parametrize("work", LAYERS, ids=lambda work: work.name)
def test_a_layer_agrees_with_the_reference(work, case, dtype, device):
    found = compare(EXACT, work.op, inputs(work, case, dtype, device))
    assert found.ok, found


@pytest.mark.parametrize("case", [*FEW.values(), Case("odd_widths", ODD)], ids=lambda case: case.name)
@pytest.mark.parametrize("work", LAYERS, ids=lambda work: work.name)
def test_tiles_of_several_steps_agree_with_the_reference(work, case, device, tmp_path):
    one = problem(work, case.shape, torch.float32, device, kind="fp8")
    tile = {"block_m": 32, "block_n": 64, "block_k": 32, "warps": 4, "stages": 2, "group_m": 2}
    entry = {"op": work.op, "dtype": "fp8", "m": 64, "n": one.n, "k": one.k, "tile": tile}
    name = device_name(torch.empty(0, device=device).device)
    (tmp_path / f"{name}.json").write_text(json.dumps({"schema": 1, "device": name, "made": [], "entries": [entry]}))
    ops = mot_impl.fused_ops(TileTable.load(tmp_path), accumulation="exact")
    found = compare(ops, work.op, inputs(work, case, torch.float32, device))
    assert (found.ok, "user" in ops.describe_tile(one)) == (True, True), found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["rows_shuffled", "all_text", "all_image", "no_rows", "outliers"])
def test_the_gated_mlp_agrees_with_the_reference(name, dtype, device):
    found = compare(EXACT, "gated_mlp", inputs(Work("gated_mlp"), CASES[name], dtype, device))
    assert found.ok, found


@pytest.mark.parametrize("fixed", [False, True], ids=["own_scales", "input_scale"])
@pytest.mark.parametrize("work", LAYERS, ids=lambda work: work.name)
def test_rows_that_are_not_quantised_yet_are_first(work, fixed, device):
    x, experts, route = arguments(work, CASES["rows_shuffled"], torch.float32, device)
    _, experts, route = quantised((x, experts, route), "fp8")
    if fixed:
        experts = dataclasses.replace(experts, input_scale=torch.tensor([0.01, 0.02], device=device))
    rows = mot_impl.OPS.offered("quantise_rows")(x, route, experts.input_scale)
    op = getattr(mot_impl.OPS, work.op)
    assert torch.equal(op(x, experts, route), op(rows, experts, route))


# The interpreter reads the code of NaN as 480.
@pytest.mark.parametrize("where", ["scale", pytest.param("values", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("work", LAYERS, ids=lambda work: work.name)
def test_a_row_that_is_not_a_number_is_alone(work, where, device):
    x, experts, route = inputs(work, CASES["rows_shuffled"], torch.float32, device)
    clean = getattr(mot_impl.OPS, work.op)(x, experts, route)
    values, scale = x.values.clone(), x.scale.clone()
    if where == "scale":
        scale[::3] = float("nan")
    else:
        values.view(torch.uint8)[::3, 5] = 0x7F
    dirty = getattr(mot_impl.OPS, work.op)(QuantisedRows(values, scale, x.dtype), experts, route)
    kept = torch.arange(len(scale), device=device) % 3 != 0
    assert (bool(dirty[~kept].isnan().all()), torch.equal(dirty[kept], clean[kept])) == (True, True)


def test_a_row_of_zeros_is_its_bias(device):
    x, experts, route = inputs(Work("linear", "qkv"), CASES["text_at_ends"], torch.float32, device)
    values = x.values.clone()
    values.view(torch.uint8)[70] = 0
    found = mot_impl.OPS.linear(QuantisedRows(values, x.scale, x.dtype), experts, route)
    assert torch.equal(found[70], experts.bias[1])


def test_rows_may_lie_apart(device):
    x, experts, route = inputs(Work("linear", "o"), CASES["rows_shuffled"], torch.float32, device)
    wide = torch.full((len(x.scale), x.shape[1] + 3), 0x7F, dtype=torch.uint8, device=device)
    wide[:, 1:-2] = x.values.view(torch.uint8)
    apart = QuantisedRows(wide.view(torch.float8_e4m3fn)[:, 1:-2], x.scale, x.dtype)
    assert torch.equal(mot_impl.OPS.linear(apart, experts, route), mot_impl.OPS.linear(x, experts, route))


def test_the_accumulation_is_told_with_the_tile(device):
    one = problem(Work("linear", "o"), SMALL, torch.float32, device, kind="fp8")
    told = [ops.describe_tile(one).rsplit(", ", 1)[1] for ops in (mot_impl.OPS, EXACT)]
    assert told == ["fast sums", "exact sums"]


def test_an_unknown_accumulation_is_refused():
    with pytest.raises(ValueError, match="accumulation 'exat' is not one of fast, exact"):
        mot_impl.fused_ops(TileTable(), accumulation="exat")


def test_of_dense_experts_no_accumulation_is_told(device):
    assert "sums" not in EXACT.describe_tile(problem(Work("linear", "o"), SMALL, torch.float32, device))


def test_a_chip_without_8_bit_floats_is_refused(monkeypatch):
    monkeypatch.setattr(mot_impl.device, "INTERPRETED", False)
    monkeypatch.setattr(mot_impl.device, "_capability", lambda device: (8, 0))
    message = r"fp8 experts and torch.bfloat16 on device cuda:0 of compute capability \(8, 0\); it must be \(8, 9\)"
    with pytest.raises(NotImplementedError, match=message):
        mot_impl.device.require_fp8(torch.bfloat16, torch.device("cuda", 0))


@pytest.mark.skipif(not INTERPRETED, reason="compiled kernels do compute bfloat16")
@pytest.mark.parametrize("work", LAYERS, ids=lambda work: work.name)
def test_results_in_bfloat16_are_refused_in_the_interpreter(work):
    with pytest.raises(NotImplementedError, match=r"torch.bfloat16 on device cpu in Triton's interpreter"):
        getattr(mot_impl.OPS, work.op)(*inputs(work, CASES["one_text_row"], torch.bfloat16, "cpu"))
