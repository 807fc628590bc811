"""Which tiles are worth compiling for a point, and which of those worth measuring."""

import dataclasses

import pytest

from benchmarks.harness.shapes import BAGEL, LAYERS
from benchmarks.harness.tuner import plans, task
from benchmarks.harness.tuner_candidates import CHIPS, Chip, at_once, estimate, hopper, plain, refusal, survivors
from benchmarks.harness.tuner_journal import Build
from benchmarks.harness.tuner_points import PRECISIONS, ROWS, Point, points
from mot_impl.compiled import Compiled
from mot_impl.heuristic import HOPPER_TILES
from mot_impl.tiles import HOPPER_TILE, Tile

H100 = CHIPS[90]
POINTS = points(BAGEL, LAYERS, ROWS)
QKV = POINTS[0]
GOOD = Compiled(registers=128, spilled_bytes=0, shared_bytes=100_000, threads=256, wgmma=4, serialised=False)


def every_point(function):
    return pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)(function)


@every_point
def test_a_point_has_a_few_plain_candidates_that_fit(point):
    tiles = plain(point, H100)
    assert (4 <= len(set(tiles)) <= 16, len(tiles) - len(set(tiles))) == (True, 0)
    assert max(tile.shared_memory(2, point.accumulators) for tile in tiles) <= H100.shared_block


@every_point
def test_the_rules_blocks_at_large_m_are_among_the_candidates(point):
    if point.m >= 4098:
        assert (128, 256 // point.accumulators) in {(tile.block_m, tile.block_n) for tile in plain(point, H100)}


def test_a_token_gets_no_tile_of_many_rows():
    assert {tile.block_m for tile in plain(Point("o", 1, 1, 3584, 3584), H100)} == {16}


def test_more_multiprocessors_ask_for_narrower_tiles():
    """3584 columns in blocks of 128 are 28 blocks: most of 132 multiprocessors would have none."""
    narrow, wide = (Tile(16, columns, 128, 4, 4) for columns in (32, 128))
    point = Point("o", 1, 1, 3584, 3584)
    few = dataclasses.replace(H100, multiprocessors=16)
    assert estimate(point, narrow, H100) < estimate(point, wide, H100)
    assert estimate(point, narrow, few) > estimate(point, wide, few)


@pytest.mark.parametrize("kind", ["fp8", "int8"])
@every_point
def test_a_point_of_quantised_experts_has_candidates_that_fit(point, kind):
    tiles = plain(point, H100, kind)
    assert (
        4 <= len(tiles) == len(set(tiles)),
        max(tile.shared_memory(1, 1) for tile in tiles) <= H100.shared_block,
    ) == (
        True,
        True,
    )


def test_fp8_steps_are_as_many_bytes_as_those_of_half_precision():
    deepest = {kind: max(tile.block_k for tile in plain(QKV, H100, kind)) for kind in ("dense", "fp8")}
    assert deepest["fp8"] == 2 * deepest["dense"]


@pytest.mark.parametrize(("m", "cut"), [(16, True), (1026, False)])
def test_int8_tiles_of_few_rows_are_cut_along_k(m, cut):
    tiles = plain(Point("o", m, min(m, 2), 3584, 3584), H100, "int8")
    assert any(tile.pieces > 1 for tile in tiles) == cut


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_the_hopper_kernel_of_a_kind_has_its_own_tile_first(kind):
    assert hopper(QKV, H100, kind)[0] == HOPPER_TILES[kind]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_has_kernels_of_its_own(precision):
    (plan,), _ = plans([QKV], precision, H100)
    others = {name for other in PRECISIONS if other != precision for name in plans([QKV], other, H100)[0][0].variants}
    assert not set(plan.variants) & others


def test_the_hopper_kernels_own_tile_is_its_first_candidate():
    assert hopper(QKV, H100)[0] == HOPPER_TILE


def test_knobs_that_change_no_schedule_are_no_candidates():
    """A single row is narrow: there are no row tiles to group and no last round to cut."""
    tiles = hopper(Point("o", 1, 1, 3584, 3584), H100)
    assert [str(tile) for tile in tiles] == ["hopper 128x256x64 w8 s4", "hopper 128x256x64 w8 s3"]


def test_pieces_are_not_tried_beyond_the_steps_of_k():
    tiles = hopper(Point("o", 300, 2, 3584, 64), H100)
    assert {tile.pieces for tile in tiles} <= {0, 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spilled_bytes": 8}, "8 bytes a thread do not fit its registers"),
        ({"serialised": True}, "products wait for each other"),
        ({"shared_bytes": 232_449}, "232449 bytes of shared memory of 232448"),
        ({"registers": 255, "threads": 512}, "512 threads of 255 registers are more than there are"),
        ({}, ""),
    ],
    ids=["spills", "serialised", "shared-memory", "registers", "good"],
)
def test_what_the_compiler_reports_decides(change, reason):
    found = refusal(HOPPER_TILE, dataclasses.replace(GOOD, **change), H100)
    assert (reason in found, bool(found)) == (True, bool(reason))


@pytest.mark.parametrize(
    ("change", "blocks"),
    [({}, 2), ({"registers": 64, "shared_bytes": 50_000}, 4), ({"shared_bytes": 120_000}, 1), ({"registers": 168}, 1)],
    ids=["shared-memory-and-registers", "four", "shared-memory", "registers"],
)
def test_occupancy_is_what_fits_a_multiprocessor(change, blocks):
    assert at_once(dataclasses.replace(GOOD, **change), H100) == blocks


def test_a_tile_with_too_few_loads_on_the_way_is_not_measured():
    deep, shallow = Tile(16, 32, 128, 4, 5), Tile(16, 16, 16, 4, 2)
    point = Point("o", 1, 1, 3584, 3584)
    assert survivors(point, [shallow, deep], {shallow: GOOD, deep: GOOD}, H100) == [deep]


def test_a_tile_that_did_not_compile_is_not_measured():
    assert survivors(QKV, plain(QKV, H100), {}, H100) == []


def test_a_kernel_is_compiled_once_for_all_numbers_of_rows():
    _, jobs = plans(points(BAGEL, ["o"], ["4098:2", "8208:16"]), "bfloat16", H100)
    assert len(jobs) == len({job.variant for job in jobs}) < sum(1 for _ in plain(QKV, H100)) + 4


def test_other_chips_have_no_candidates_of_the_hopper_kernel():
    made, _ = plans([QKV], "bfloat16", CHIPS[80])
    assert {tile.kind for tile in made[0].tiles} == {"gather"}


def outcome(**changes) -> dict[Tile, str]:
    """What becomes of the tiles of qkv when those of 4 warps come back as `changes` say."""
    (plan,), _ = plans([QKV], "bfloat16", H100)
    builds = {name: Build(name, GOOD) for name in plan.variants}
    for tile, name in zip(plan.tiles, plan.variants, strict=True):
        if tile.warps == 4:
            builds[name] = dataclasses.replace(builds[name], **changes)
    made = task(plan, builds, H100)
    assert not set(made.tiles) & {entrant.tile for entrant in made.left_out}
    assert len(made.tiles) + len(made.left_out) == len(plan.tiles)
    return {entrant.tile: entrant.reason for entrant in made.left_out}


def test_a_tile_that_is_left_out_keeps_its_reason():
    out = outcome(compiled=None, error="the compiler did not come back")
    assert (len(out) > 0, set(out.values())) == (True, {"the compiler did not come back"})


def test_the_rules_tile_is_measured_first():
    (plan,), _ = plans([QKV], "bfloat16", H100)
    made = task(plan, {name: Build(name, GOOD) for name in plan.variants}, H100)
    assert str(made.tiles[0]) == "128x256x64 w8 s3"


def test_a_chip_is_known_by_its_limits():
    assert Chip(90, 132, 232_448, 233_472) == H100
