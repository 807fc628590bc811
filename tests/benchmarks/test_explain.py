"""A layer's time in parts that add up: what each is made of, and that the variants are the launch that they vary."""

import dataclasses

import pytest
import torch

import reference_impl
from benchmarks.harness import explain as explaining
from benchmarks.harness import roofline_told
from benchmarks.harness.records import DENSE, FUSED, Ceilings
from mot_impl.heuristic import HOPPER_TILE, HOPPER_TILES, INT8_FEW_ROWS
from mot_impl.tiles import TileTable
from reference_impl.contract import Experts, Problem, Route

LIMITS = Ceilings(matrix=800e12, copy=2e12)
BLOCKS = 132
STEP, START, EXCHANGE, TEXT, BEND = 0.7e-6, 5e-6, 2e-6, 4e-6, 0.3e-6


def launch(m: int = 1026, n: int = 4608, k: int = 3584) -> explaining.Launch:
    problem = Problem("linear", m, n, k, torch.bfloat16, torch.device("cpu"), image_first=True)
    return explaining.Launch("linear", problem, HOPPER_TILE, lambda table: reference_impl.OPS)


@pytest.fixture
def found():
    """Times of a made-up card: so much a step and a start, an exchange and a text expert; whole K takes a bit more."""
    times = {
        explaining.IMAGE: START + 70 * STEP + EXCHANGE + BEND,
        explaining.HALF: START + 35 * STEP + EXCHANGE + BEND,
        explaining.QUARTER: START + 18 * STEP + EXCHANGE,
        explaining.WHOLE: START + 112 * STEP + BEND,
        explaining.HOT: START + 60 * STEP,
        FUSED: START + 70 * STEP + EXCHANGE + BEND + TEXT,
        DENSE: 50e-6,
    }
    samples = {name: [seconds] for name, seconds in times.items()}
    route = Route.image_then_text(1024, 2)
    return explaining.explain(launch(), route, BLOCKS, samples, {explaining.IMAGE: [1500]}, LIMITS)


def test_a_step_is_what_more_of_k_costs(found):
    assert found.step_seconds == pytest.approx(STEP)


def test_a_step_is_told_in_cycles_of_the_clock(found):
    assert found.step_cycles == pytest.approx(STEP * 1500e6)


@pytest.mark.parametrize(
    ("part", "seconds"),
    [
        (explaining.TEXT, TEXT),
        (explaining.EXCHANGE, EXCHANGE),
        (explaining.ENDS, START),
        (explaining.UNEXPLAINED, BEND),
        (explaining.IMBALANCE, (70 - 8064 / 132) * STEP),
    ],
)
def test_a_part_is_found(found, part, seconds):
    assert found.parts[part] == pytest.approx(seconds)


def test_the_parts_and_the_arithmetic_are_the_fused_time(found):
    assert found.arithmetic + sum(found.parts.values()) == pytest.approx(START + 70 * STEP + EXCHANGE + BEND + TEXT)


def test_the_parts_without_the_rivals_own_are_the_difference(found):
    fused = START + 70 * STEP + EXCHANGE + BEND + TEXT
    assert sum(found.parts.values()) - found.rival_beyond == pytest.approx(fused - 50e-6)


def test_the_schedule_is_counted(found):
    assert (found.tiles, found.pieces, found.longest_steps, found.blocks) == (144, 4, 70, 132)


def test_the_text_experts_weights_are_counted(found):
    assert found.text_bytes == 4608 * 3584 * 2


@pytest.mark.parametrize(
    ("kind", "tile", "cycles"),
    [
        pytest.param("dense", HOPPER_TILES["dense"], 1024, id="dense"),
        pytest.param("fp8", HOPPER_TILES["fp8"], 1024, id="fp8"),
        pytest.param("int8", HOPPER_TILES["int8"], 1024, id="int8-256-rows"),
        pytest.param("int8", INT8_FEW_ROWS[1], 512, id="int8-128-rows"),
        pytest.param("int8", INT8_FEW_ROWS[0], 256, id="int8-64-rows"),
    ],
)
def test_the_cycles_that_a_step_needs_are_its_tiles(kind, tile, cycles):
    problem = dataclasses.replace(launch().problem, kind=kind)
    assert dataclasses.replace(launch(), problem=problem, tile=tile).step_cycles == cycles


def test_the_cycles_that_a_step_needs_are_kept_and_told(found):
    assert found.needed_cycles == 1024
    assert "1050 cycles of 1024" in roofline_told.explained(found, 50e-6)


def test_a_record_without_the_cycles_that_a_step_needs_names_none(found):
    said = roofline_told.explained(dataclasses.replace(found, needed_cycles=None), 50e-6)
    assert "1050 cycles;" in said


def test_the_rival_is_named(found):
    assert " beside dense = " in roofline_told.explained(found, 50e-6)


@pytest.mark.parametrize("name", [explaining.IMAGE, explaining.HALF, explaining.QUARTER, explaining.WHOLE])
def test_a_variant_computes_image_rows_of_the_first_columns(name):
    x, weight = torch.randn(20, 32), torch.randn(2, 8, 32)
    every = [(x, Experts(weight), Route.image_then_text(17, 3))]
    width = {explaining.HALF: 16, explaining.QUARTER: 8}.get(name, 32)
    result = launch(20, 8, 32).variants(every, 2)[name][0]()
    assert torch.allclose(result, x[:17, :width] @ weight[1, :, :width].T, atol=1e-5)


def test_without_cut_tiles_there_is_no_variant_of_them():
    every = [(torch.randn(20, 32), Experts(torch.randn(2, 8, 32)), Route.image_then_text(17, 3))]
    assert explaining.WHOLE not in launch(20, 8, 32).variants(every, 1)


def test_only_launches_of_the_hopper_kernel_are_explained():
    problem = Problem("linear", 64, 64, 64, torch.float32, torch.device("cpu"))
    assert explaining.Launch.of("linear", problem, TileTable(), lambda table: reference_impl.OPS) is None
