"""Layers of int8 weights against the reference, K in one piece and in several; what they refuse."""

import dataclasses
import json

import pytest
import torch

import mot_impl
from benchmarks.harness.gate import compare
from benchmarks.harness.inputs import CASES, WORK, Case, Work, arguments, problem, quantised
from benchmarks.harness.shapes import ODD, SMALL
from mot_impl import int8
from mot_impl.heuristic import heuristic_tile, hopper_tile
from mot_impl.linear import _linear_kernel, launch_routed
from mot_impl.tiles import Tile, TileTable, TuneKey, device_name
from reference_impl.contract import Experts, Problem

pytestmark = pytest.mark.usefixtures("poisoned")

DTYPES = [torch.float32, torch.float16]
MATRIX_WORK = [work for work in WORK if work.op in ("linear", "gated_linear", "gated_mlp")]
LAYERS = [Work("linear", "qkv"), Work("gated_linear")]
FEW = {
    "no_rows": Case("no_rows", SMALL.rows(0, 0)),
    "text_1": Case("text_1", SMALL.rows(1, 1)),
    "image_1": Case("image_1", SMALL.rows(1, 0)),
    "one_of_each": Case("one_of_each", SMALL.rows(2, 1)),
    "text_2_of_17": Case("text_2_of_17", SMALL.rows(17, 2), order="shuffled"),
}
WHOLE, CUT = Tile(16, 64, 32, 4, 1), Tile(16, 64, 32, 4, 1, pieces=3)


def with_tile(work: Work, tile: Tile):
    """OPS whose int8 kernel has this tile."""
    plan = lambda x, experts, route: int8.routed(x, experts, route, tile, work.op == "gated_linear")  # noqa: E731
    return dataclasses.replace(mot_impl.OPS, **{work.op: plan})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", (CASES | FEW).values(), ids=(CASES | FEW).keys())
@pytest.mark.parametrize("work", MATRIX_WORK, ids=lambda work: work.name)
def test_an_op_agrees_with_the_reference(work, case, dtype, device):
    found = compare(mot_impl.OPS, work.op, quantised(arguments(work, case, dtype, device), "int8"))
    assert found.ok, found


@pytest.mark.parametrize("tile", [WHOLE, CUT], ids=str)
@pytest.mark.parametrize("case", [*FEW.values(), Case("odd_widths", ODD)], ids=lambda case: case.name)
@pytest.mark.parametrize("work", LAYERS, ids=lambda work: work.name)
def test_tiles_of_several_steps_agree_with_the_reference(work, case, tile, device):
    found = compare(with_tile(work, tile), work.op, quantised(arguments(work, case, torch.float32, device), "int8"))
    assert found.ok, found


@pytest.mark.parametrize("tile", [WHOLE, CUT], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("work", LAYERS, ids=lambda work: work.name)
def test_the_largest_codes_and_a_scale_out_of_line_agree(work, dtype, tile, device):
    """-128 and 127 in every row, and one channel thirty times as large as the others."""
    x, experts, route = quantised(arguments(work, FEW["text_2_of_17"], dtype, device), "int8")
    weight, scale = experts.weight.clone(), experts.scale.clone()
    weight[:, :, 0], weight[:, :, -1] = -128, 127
    scale[:, 5] *= 30
    found = compare(with_tile(work, tile), work.op, (x, Experts(weight, experts.bias, scale), route))
    assert found.ok, found


@pytest.mark.parametrize("tile", [WHOLE, CUT], ids=str)
@pytest.mark.parametrize("work", LAYERS, ids=lambda work: work.name)
def test_nan_stays_in_its_row(work, tile, device):
    x, experts, route = quantised(arguments(work, FEW["text_2_of_17"], torch.float32, device), "int8")
    op = getattr(with_tile(work, tile), work.op)
    clean, dirty = op(x, experts, route), x.clone()
    dirty[3] = float("nan")
    spoiled = op(dirty, experts, route)
    others = torch.arange(len(x), device=device) != 3
    assert (torch.equal(spoiled[others], clean[others]), bool(spoiled[3].isnan().all())) == (True, True)


def test_the_counts_of_pieces_are_zero_again(device):
    args = quantised(arguments(LAYERS[0], FEW["text_2_of_17"], torch.float32, device), "int8")
    first, second = (int8.routed(*args, CUT, False) for _ in range(2))
    assert torch.equal(first, second)
    assert not any(bool(done.any()) for done in int8._DONE.values())


def test_a_tile_is_looked_up_under_the_kind(tmp_path, device):
    one = problem(LAYERS[0], SMALL, torch.float16, device, kind="int8")
    tile = {"block_m": 16, "block_n": 32, "block_k": 64, "warps": 4, "stages": 1, "pieces": 2}
    entry = {"op": "linear", "dtype": "int8", "m": 64, "n": one.n, "k": one.k, "tile": tile}
    content = {"schema": 1, "device": device_name(device), "made": {}, "entries": [entry]}
    (tmp_path / f"{device_name(device)}.json").write_text(json.dumps(content))
    ops = mot_impl.fused_ops(TileTable.load(tmp_path))
    assert ops.describe_tile(one).startswith("16x32x64 w4 s1 p2 (user: ")


def test_float32_rows_take_no_tile_of_16_bit_rows():
    keys = {TuneKey.of(problem(LAYERS[0], SMALL, dtype, "cpu", kind="int8")).dtype for dtype in DTYPES}
    assert keys == {"int8 float32", "int8"}


@pytest.mark.parametrize(("m", "tokens"), [(17, 64), (64, 64), (65, 128), (128, 128), (129, 256), (8208, 256)])
def test_the_hopper_kernel_takes_tiles_of_the_fewest_tokens_that_hold_all_rows(m, tokens):
    assert (
        hopper_tile(Problem("linear", m, 512, 256, torch.bfloat16, torch.device("cuda"), True, "int8")).block_m
        == tokens
    )


@pytest.mark.parametrize(("n", "pieces"), [(18944, 0), (8192, 2), (3584, 4)])
def test_few_rows_are_cut_until_every_multiprocessor_has_three_blocks(n, pieces):
    few = Problem("linear", 16, n, 3584, torch.bfloat16, torch.device("cuda"), False, "int8")
    assert heuristic_tile(few).pieces == pieces


def test_pieces_of_a_dense_layer_are_refused(device):
    x, experts, route = arguments(LAYERS[0], FEW["text_1"], torch.float32, device)
    y = x.new_empty(1, experts.n_out)
    with pytest.raises(ValueError, match="pieces=3; only the kernel of int8 weights cuts K"):
        launch_routed(_linear_kernel, x, experts, y, route, CUT)


def test_a_tile_of_another_kernel_is_refused(device):
    args = quantised(arguments(LAYERS[0], FEW["text_1"], torch.float32, device), "int8")
    tile = Tile(256, 128, 64, 8, 4, kind="hopper")
    with pytest.raises(ValueError, match="of kind 'hopper'; this kernel takes 'gather'"):
        int8.routed(*args, tile, False)


def test_bfloat16_in_the_interpreter_is_refused(device):
    if device.type != "cpu":
        pytest.skip("the interpreter's limit")
    args = quantised(arguments(LAYERS[0], FEW["text_1"], torch.bfloat16, device), "int8")
    with pytest.raises(NotImplementedError, match=r"torch.bfloat16 on device cpu"):
        mot_impl.OPS.linear(*args)


def test_a_table_without_files_serves_int8(device):
    ops = mot_impl.fused_ops(TileTable())
    args = quantised(arguments(LAYERS[0], FEW["one_of_each"], torch.float32, device), "int8")
    assert compare(ops, "linear", args).ok
