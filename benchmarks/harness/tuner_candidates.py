"""Which tiles are worth measuring for a point: what divides well, what the compiler makes of it, what runs at once.

Nothing here needs a GPU. docs/tuning.md says why each rule is there.
"""

from __future__ import annotations

import itertools
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from benchmarks.harness.tuner_points import Point

if typing.TYPE_CHECKING:
    import torch

    from mot_impl.compiled import Compiled
    from mot_impl.tiles import Tile

BYTES = {"dense": (2, 2), "fp8": (1, 1), "int8": (2, 1)}
"""Of a value of x and of the weights, by kind of experts."""

FASTER = {"fp8": 2}
"""How many times as many products of a kind the tensor cores compute."""

BYTE = 43
"""Products that a multiprocessor computes while it loads a byte from L2: at 128x256 the two took equally long on an
H100, 8.2 TB/s and 700 Tflop/s over 132 multiprocessors (docs/kernels.md)."""

SLOWEST = 1.4
"""How many times the best block's estimate a block's may be. The estimate knows no latency and no occupancy."""

BLOCKS, VARIANTS = 4, 4
"""Sizes of blocks that are compiled for a point, and tiles of each; of int8 weights twice as many, cut differently."""

DEEPEST = 5
"""Stages beyond which a tile only takes shared memory from a second block."""

IN_FLIGHT = 16 * 1024
"""Bytes that a multiprocessor must have on their way for memory to be busy: 3 TB/s for 0.7 microseconds, over 132."""


@dataclass(frozen=True)
class Chip:
    """What limits a block. Shared memory in bytes; `shared` and `threads` are a multiprocessor's, 1 KB a block is kept
    by the system. Registers: the same on every chip since sm_50."""

    capability: int
    multiprocessors: int
    shared_block: int
    shared: int
    threads: int = 2048
    registers: int = 65_536

    @classmethod
    def of(cls, device: torch.device) -> Chip:
        """The chip of a CUDA device."""
        import torch

        has: typing.Any = torch.cuda.get_device_properties(device)
        return cls(
            has.major * 10 + has.minor,
            has.multi_processor_count,
            has.shared_memory_per_block_optin,
            has.shared_memory_per_multiprocessor,
            has.max_threads_per_multi_processor,
        )


CHIPS = {
    80: Chip(80, 108, 166_912, 167_936),
    90: Chip(90, 132, 232_448, 233_472),
    100: Chip(100, 148, 232_448, 233_472),
}
"""An A100, H100 and B200, for compiling where there is none. Source: CUDA C++ Programming Guide, table of technical
specifications per compute capability."""


def plain(point: Point, chip: Chip, kind: str = "dense") -> list[Tile]:
    """Tiles of the plain kernel that divide the point well, the best blocks first; unknown yet is what they compile to.

    Of each of the best block_m x block_n a few depths, warps and stages.
    """
    blocks: dict[tuple[int, int], list[Tile]] = {}
    for tile in _grid(point, chip, kind):
        blocks.setdefault((tile.block_m, tile.block_n), []).append(tile)
    costs = {block: estimate(point, tiles[0], chip, kind) for block, tiles in blocks.items()}
    best = sorted((block for block in blocks if costs[block] <= SLOWEST * min(costs.values())), key=costs.__getitem__)
    most = 2 * VARIANTS if kind == "int8" else VARIANTS
    return [tile for block in best[:BLOCKS] for tile in blocks[block][:most]]


def hopper(point: Point, chip: Chip, kind: str = "dense") -> list[Tile]:
    """Tiles of the Hopper kernel: its own, and each knob turned alone. Knobs that change no schedule are left out.

    That of int8 weights has blocks of fewer rows too.
    """
    from mot_impl import schedule
    from mot_impl.heuristic import HOPPER_TILES, INT8_FEW_ROWS
    from mot_impl.tile import MOST_PIECES

    own = HOPPER_TILES[kind]
    fewer: tuple[Tile, ...] = INT8_FEW_ROWS if kind == "int8" else ()
    # What fits the rows best has its knobs turned.
    own = next((tile for tile in fewer if point.m <= tile.block_m), own)
    rows = point.n_text, point.m - point.n_text
    n_tiles = math.ceil(point.n * point.accumulators / own.block_n)
    k_steps = math.ceil(point.k / own.block_k)
    turned = [
        own,
        *(replace(own, group_m=group) for group in (4, 16)),
        *(replace(own, pieces=pieces) for pieces in range(1, min(MOST_PIECES, k_steps) + 1)),
    ]
    tiles: dict[tuple[object, ...], Tile] = {}
    for tile in turned:
        step = schedule.step_of(kind, tile.block_m)
        plan = schedule.make(rows, n_tiles, k_steps, chip.multiprocessors, tile.group_m, tile.pieces, step)
        tiles.setdefault(tuple(map(tuple, plan.tables())), tile)
    others = [tile for tile in (*fewer, HOPPER_TILES[kind]) if tile != own]
    return [*tiles.values(), replace(own, stages=own.stages - 1), *others]


def refusal(tile: Tile, compiled: Compiled, chip: Chip) -> str:
    """Why what the compiler made of a tile is not measured; empty if it may be."""
    if compiled.spilled_bytes:
        return f"{compiled.spilled_bytes} bytes a thread do not fit its registers"
    if compiled.serialised:
        return "its asynchronous products wait for each other"
    if compiled.shared_bytes > chip.shared_block:
        return f"{compiled.shared_bytes} bytes of shared memory of {chip.shared_block}"
    if not at_once(compiled, chip):
        return f"{compiled.threads} threads of {compiled.registers} registers are more than there are"
    return ""


def at_once(compiled: Compiled, chip: Chip) -> int:
    """Occupancy: how many blocks run on one multiprocessor at once."""
    registers: int = math.ceil(compiled.registers / 8) * 8 * compiled.threads
    shared: int = compiled.shared_bytes + 1024
    return min(chip.registers // registers, int(chip.threads // compiled.threads), chip.shared // shared)


def survivors(
    point: Point, tiles: Iterable[Tile], compiled: Mapping[Tile, Compiled], chip: Chip, kind: str = "dense"
) -> list[Tile]:
    """The tiles that are measured: compiled, not refused, and enough of their loads on the way at once."""
    fit = [tile for tile in tiles if tile in compiled and not refusal(tile, compiled[tile], chip)]
    loads = {
        tile: _loading(point, tile, kind) * min(at_once(compiled[tile], chip), _blocks_each(point, tile, chip))
        for tile in fit
    }
    enough = min(IN_FLIGHT, max(loads.values(), default=0))
    return [tile for tile in fit if tile.kind != "gather" or loads[tile] >= enough]


def estimate(point: Point, tile: Tile, chip: Chip, kind: str = "dense") -> float:
    """Products of the busiest multiprocessor for one column of K, or those that it could compute while it loads."""
    columns = tile.block_n * point.accumulators
    of_x, of_weights = BYTES[kind]
    loads = BYTE * (of_x * tile.block_m + of_weights * columns)
    each = max(tile.block_m * columns / FASTER.get(kind, 1), loads)
    return float(_blocks_each(point, tile, chip) * each)


def _blocks_each(point: Point, tile: Tile, chip: Chip) -> int:
    rows: int = tile.block_m
    columns: int = tile.block_n
    row_tiles = math.ceil(point.n_text / rows) + math.ceil((point.m - point.n_text) / rows)
    return math.ceil(row_tiles * math.ceil(point.n / columns) / chip.multiprocessors)


def _loading(point: Point, tile: Tile, kind: str) -> int:
    """Bytes that a block has on their way: all its stages but the one that it multiplies."""
    return _stage(point, tile, kind) * int(max(tile.stages - 1, 1))


def _stage(point: Point, tile: Tile, kind: str) -> int:
    """Bytes of one step."""
    of_x, of_weights = BYTES[kind]
    return int(tile.block_k * (of_x * tile.block_m + of_weights * tile.block_n * point.accumulators))


def _grid(point: Point, chip: Chip, kind: str) -> Iterator[Tile]:
    """Every tile that may be sensible; of one block, those with the usual depth and the most stages first."""
    from mot_impl.tiles import Tile

    few = point.m <= 64
    rows = (16,) if point.m <= 16 else (16, 32, 64) if few else (64, 128, 256)
    values_of_16_bits = (128, 256, 64) if few else (64, 128)
    depths = [depth * 2 // BYTES[kind][0] for depth in values_of_16_bits]
    for block_m, columns, depth, shorter, warps in itertools.product(
        rows, (16, 32, 64, 128, 256), depths, (False, True), (8, 4)
    ):
        one = Tile(block_m, columns, depth, warps, 1)
        most = min(DEEPEST, chip.shared_block // _stage(point, one, kind))
        values = block_m * columns * point.accumulators / (32 * warps)
        # More than 128 sums a thread leave no registers for anything else; fewer than 2 leave threads without work.
        if 2 <= values <= 128 and most - shorter >= 2:
            yield from _cut(point, replace(one, stages=most - shorter), chip, kind)


def _cut(point: Point, tile: Tile, chip: Chip, kind: str) -> Iterator[Tile]:
    """The tile; of int8 weights and few rows, where memory decides, cut in as many pieces of K as give every
    multiprocessor two blocks that read, and in half as many."""
    if kind != "int8" or point.m > 64:
        yield tile
        return
    from mot_impl.tile import GATHER_PIECES

    blocks = math.ceil(point.n / tile.block_n) * math.ceil(point.m / tile.block_m)
    wanted = 2 ** math.ceil(math.log2(max(1.0, 2 * chip.multiprocessors / blocks)))
    for pieces in dict.fromkeys((min(wanted, GATHER_PIECES), min(max(wanted // 2, 1), GATHER_PIECES))):
        yield replace(tile, pieces=pieces if pieces > 1 else 0)
