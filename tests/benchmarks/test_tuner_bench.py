"""One point measured on a CPU: what may win, what is proven, and what becomes of tiles that are wrong or raise."""

import time
from dataclasses import dataclass, replace

import pytest
import torch

import reference_impl
from benchmarks.harness.tuner_bench import Bench
from benchmarks.harness.tuner_journal import Entrant
from benchmarks.harness.tuner_points import Point
from mot_impl.heuristic import rule
from mot_impl.tiles import Tile
from reference_impl.contract import MoTOps

POINT = Point("o", 20, 2, 64, 64)
FAST, WRONG, RAISES, SLOW = (Tile(16, 16, 16, 4, stages) for stages in (1, 2, 3, 4))


@dataclass(frozen=True)
class Staged(Bench):
    """A bench whose tiles are the reference with a wait, a fault or an error: the rule's tile waits longest."""

    def ops(self, point: Point, tile: Tile) -> MoTOps:
        def linear(*arguments):
            if tile == RAISES:
                raise RuntimeError("out of resources")
            time.sleep({FAST: 0.01, WRONG: 0.0, SLOW: 0.02}.get(tile, 0.03))
            return reference_impl.OPS.linear(*arguments) * (1.5 if tile == WRONG else 1.0)

        return replace(reference_impl.OPS, linear=linear)


@pytest.fixture(scope="module")
def result(one_thread):
    tiles = [SLOW, WRONG, RAISES, FAST]
    refused = [Entrant(Tile(32, 32, 32, 4, 1), [], "it spills")]
    return Staged(torch.device("cpu"), "float16", 0).measure(POINT, tiles, refused, 60.0)


def test_the_fastest_that_agrees_is_chosen(result):
    assert [(choice.rows, choice.tile) for choice in result.choices] == [("any", FAST)]


def test_it_is_measured_against_the_rules_tile_anew(result):
    own = rule(POINT.problem("float16", torch.device("cpu"), False)).tile
    (choice,) = result.choices
    assert (choice.rule, len(choice.seconds), len(choice.rule_seconds)) == (own, 12, 12)


def test_it_is_proven(result):
    (choice,) = result.choices
    assert (0 <= choice.worst <= 1, 0 < choice.rms <= 1) == (True, True)


@pytest.mark.parametrize(
    ("tile", "reason"),
    [
        (WRONG, "disagrees with the reference: worst"),
        (RAISES, "RuntimeError: out of resources"),
        (Tile(32, 32, 32, 4, 1), "it spills"),
    ],
    ids=["wrong", "raises", "refused"],
)
def test_a_tile_that_is_not_measured_says_why(result, tile, reason):
    found = next(entrant for entrant in result.entrants if entrant.tile == tile)
    assert (found.reason.startswith(reason), found.seconds) == (True, [])


def test_the_losers_samples_are_kept(result):
    assert next(entrant.seconds for entrant in result.entrants if entrant.tile == SLOW)


def test_without_a_tile_that_runs_there_is_no_choice_and_a_reason():
    @dataclass(frozen=True)
    class Broken(Bench):
        def ops(self, point: Point, tile: Tile) -> MoTOps:
            raise RuntimeError("no kernel image")

    found = Broken(torch.device("cpu"), "float16", 0).measure(POINT, [FAST], [], 60.0)
    assert (found.choices, "no tile is left: " in found.reason) == ([], True)


def test_a_seed_draws_the_same_data_again():
    first, second = (Bench(torch.device("cpu"), "float16", 3).arguments(POINT) for _ in range(2))
    assert torch.equal(first[1].weight, second[1].weight)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "fp8", "int8"])
@pytest.mark.parametrize("layer", ["qkv", "gate_up"])
def test_a_point_is_measured_on_a_gpu(layer, precision):
    point = Point(layer, 300, 2, 512, 256)
    bench = Bench(torch.device("cuda", 0), precision, 0)
    result = bench.measure(point, [Tile(64, 64, 128, 4, 3)], [], 60.0)
    assert result.choices[0].rows == "any", result.reason
