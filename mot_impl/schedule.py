"""Who computes what, in which order: the work lists of the Hopper kernel, as data. No Triton here.

A *wide* item is a tile of an expert's rows against a tile of weight rows, over a range of K steps. A *narrow* item is a
tile of weight rows against an expert's at most 16 rows. Where several blocks share an output tile, each takes a range
of K, leaves float32 sums in a numbered slot, and adds up the others' where it owns the result, always in the order of
the slots: two runs give the same bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil

STEP_BYTES = 128
"""Of each row, in one step: 64 values of K in half precision, 128 in 8 bits."""
NARROW_ROWS = 16

PART_COST = 5
"""Time in which blocks exchange the parts of a cut tile, in wide steps. Measured on an H100."""
SHORT_TIME = 28
"""Wide steps in which memory could not deliver a layer's narrow weights."""
AT_THE_END = 1 << 20


@dataclass(frozen=True)
class Step:
    """What a kernel does in one step, and how long that takes.

    rows         of x in a wide tile
    narrow_cost  time of one narrow step in wide steps, for a block that takes narrow steps only; 0.93 on an H100 (down
                 of 1026 rows: 328 ended 5.6 us after 296 wide ones), and room for adding up
    delivered    blocks of weights that memory delivers in the time of a wide step: at 2.4 TB/s in 0.6 us (H100), 45 of
                 256 rows by STEP_BYTES
    """

    rows: int = 128
    narrow_cost: float = 1.0
    delivered: float = 45


EQUAL_STEP = Step()
"""x and weights of one width: 128 rows of x by 256 of the weights."""
INT8_STEPS = {
    64: Step(rows=64, narrow_cost=1.0, delivered=114),
    128: Step(rows=128, narrow_cost=0.75, delivered=152),
    256: Step(rows=256, narrow_cost=0.7, delivered=180),
}
"""By rows of x, in half precision, by 128 of int8 weights. 0.39, 0.52 and 0.6 us on an H200, a narrow one 0.39; 8 KB of
weights each, delivered at the H100's 2.4 TB/s. On an H100 455 narrow ones ended 5 us after 296 of 256 rows: 0.67."""


@dataclass(frozen=True)
class Item:
    """A range of K steps of one output tile.

    expert, row, col  whose rows, the tile's first row among them, and the column tile
    k_start, k_end    steps of STEP_BYTES
    slot              where it leaves sums for others; -1: nowhere, the tile or its last range is its own
    first, last       the slots whose sums it adds up, its own aside
    own               wide only: bit 2 * half + pair is set for each 64 rows and pair of 64-column chunks it finishes
    """

    expert: int
    row: int
    col: int
    k_start: int
    k_end: int
    slot: int = -1
    first: int = 0
    last: int = 0
    own: int = 0b1111

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        return self.k_end - self.k_start


PADDING = Item(0, 0, 0, 0, 0)


@dataclass
class Schedule:
    """Per block its wide and narrow items, in order, and after how many wide steps it takes a narrow one."""

    blocks: int
    narrow_expert: int
    wide: list[list[Item]]
    narrow: list[list[Item]]
    wide_parts: int = 0
    narrow_parts: int = 0
    every: list[int] = field(default_factory=list)

    @property
    def wide_rows(self) -> int:
        """Rows of one block's list in the wide table: two rows of zeros end each, so that a block can look ahead."""
        return max(map(len, self.wide)) + 2

    @property
    def narrow_rows(self) -> int:
        """The same for the narrow table."""
        return max(map(len, self.narrow)) + 2

    def tables(self) -> tuple[list[int], list[int], list[int]]:
        """(head, wide, narrow), what the kernel reads, flat.

        head [blocks, 4]: how many wide items, how many narrow ones, every, how many steps.
        wide, narrow [blocks, rows, 8]: items.
        """
        lists = zip(self.wide, self.narrow, self.every, strict=True)
        head = [
            entry
            for wide, narrow, every in lists
            for entry in (len(wide), len(narrow), every, sum(item.steps for item in (*wide, *narrow)))
        ]
        wide = [
            entry
            for i in _padded(self.wide, self.wide_rows)
            for entry in (i.expert | i.own << 8, i.row, i.col, i.k_start, i.k_end, i.slot, i.first, i.last)
        ]
        narrow = [
            entry
            for i in _padded(self.narrow, self.narrow_rows)
            for entry in (i.col, i.k_start, i.k_end, i.slot, i.first, i.last, 0, 0)
        ]
        return head, wide, narrow


def step_of(kind: str, rows: int) -> Step:
    """What the kernel of this kind of experts does in a step, with `rows` rows of x in a tile."""
    return INT8_STEPS[rows] if kind == "int8" else EQUAL_STEP


def make(
    rows: tuple[int, int],
    n_tiles: int,
    k_steps: int,
    blocks: int,
    group: int = 8,
    pieces: int = 0,
    step: Step = EQUAL_STEP,
) -> Schedule:
    """The schedule for `rows` (text, image) rows against `n_tiles` tiles of 256 weight rows, `k_steps` steps each.

    group: how many row tiles are taken together before the next column. pieces: into how many ranges of K the tiles
    beyond the last full round are cut; 0 chooses.
    """
    narrow_expert = next((e for e in (0, 1) if 0 < rows[e] <= NARROW_ROWS), -1)
    tiles = [
        (expert, row * step.rows, col)
        for expert in (1, 0)
        if expert != narrow_expert
        for row, col in _grouped(ceil(rows[expert] / step.rows), n_tiles, group)
    ]
    schedule = Schedule(blocks, narrow_expert, [[] for _ in range(blocks)], [[] for _ in range(blocks)])
    narrow_tiles = n_tiles if narrow_expert >= 0 else 0
    _place_wide(schedule, tiles, k_steps, pieces or _best_pieces(tiles, narrow_tiles, k_steps, blocks, step))
    if narrow_tiles:
        _place_narrow(schedule, n_tiles, k_steps, step)
    schedule.every = _every(schedule)
    return schedule


def _padded(lists: list[list[Item]], rows: int) -> Iterator[Item]:
    for items in lists:
        yield from items
        yield from [PADDING] * (rows - len(items))


def _steps(lists: list[list[Item]]) -> list[int]:
    return [sum(item.steps for item in items) for items in lists]


def _grouped(m_tiles: int, n_tiles: int, group: int) -> Iterator[tuple[int, int]]:
    for start in range(0, m_tiles, group):
        for col in range(n_tiles):
            for row in range(start, min(start + group, m_tiles)):
                yield row, col


def _best_pieces(tiles: list[tuple[int, int, int]], narrow_tiles: int, k_steps: int, blocks: int, step: Step) -> int:
    """1, or the number of ranges, all worked on at once, that ends the tiles soonest; of equals the fewest.

    Nothing ends before memory has delivered every weight once, so cutting finer than that only exchanges more parts.
    """
    n_whole = len(tiles) - len(tiles) % blocks
    whole, rest = tiles[:n_whole], tiles[n_whole:]
    before = max(n_whole // blocks * k_steps, _delivery(whole, k_steps, step))
    weights = _delivery(tiles, k_steps, step) + narrow_tiles * k_steps / step.delivered

    def cost(pieces: int) -> float:
        exchange = PART_COST if pieces > 1 else 0
        return max(weights, before + max(ceil(k_steps / pieces), _delivery(rest, k_steps, step)) + exchange)

    possible = [p for p in (2, 3, 4) if 0 < len(rest) * p <= blocks and p <= k_steps]
    return min([1, *possible], key=cost)


def _delivery(tiles: list[tuple[int, int, int]], k_steps: int, step: Step) -> float:
    """Wide steps in which memory delivers the weights of these tiles, each once."""
    return len({(expert, col) for expert, _, col in tiles}) * k_steps / step.delivered


def _place_wide(schedule: Schedule, tiles: list[tuple[int, int, int]], k_steps: int, pieces: int) -> None:
    """Whole tiles round by round; those beyond the last full round in `pieces` equal ranges of K, all at the same
    places, so that blocks that read the same rows read them at the same time: L2 delivers such rows once.

    Blocks that work on one tile in the same round share the adding up. In different rounds the last one does it all,
    because blocks that wait for each other across rounds could wait for ever.
    """
    blocks = schedule.blocks
    n_whole = len(tiles) if pieces == 1 else len(tiles) - len(tiles) % blocks
    for index, (expert, row, col) in enumerate(tiles[:n_whole]):
        schedule.wide[index % blocks].append(Item(expert, row, col, 0, k_steps))
    cut = tiles[n_whole:]
    for piece in range(pieces):
        k_start, k_end = k_steps * piece // pieces, k_steps * (piece + 1) // pieces
        if len(cut) * pieces <= blocks:
            own = sum(1 << unit for unit in range(4) if unit % pieces == piece)
        else:
            own = 0b1111 if piece == pieces - 1 else 0
        for index, (expert, row, col) in enumerate(cut):
            first = index * pieces
            item = Item(expert, row, col, k_start, k_end, first + piece, first, first + pieces, own)
            schedule.wide[(piece * len(cut) + index) % blocks].append(item)
    schedule.wide_parts = len(cut) * pieces


def _place_narrow(schedule: Schedule, n_tiles: int, k_steps: int, step: Step) -> None:
    """Fill what time the blocks with the fewest wide steps have over, with as few blocks as suffice. What is left goes
    to those of them that share no wide tile, or evenly to all blocks, whichever ends sooner.

    Few blocks, because all of them at once would take the memory's bandwidth from the wide items for a short time and
    then leave it unused. Whoever takes part in a tile of which each block takes a step or two waits for many others.
    """
    blocks, wide = schedule.blocks, _steps(schedule.wide)
    left = n_tiles * k_steps
    shares = [0] * blocks
    for block in sorted(range(blocks), key=lambda b: (wide[b], b)):
        over = max(wide) - wide[block]
        shares[block] = min(left, int(over / step.narrow_cost)) if over > PART_COST else 0
        left -= shares[block]
    takers = [b for b in range(blocks) if shares[b] and all(item.slot < 0 for item in schedule.wide[b])]
    # Blocks that share wide tiles end later than their steps: they exchange parts.
    late = left * step.narrow_cost / max(1, len(takers)) - (PART_COST if schedule.wide_parts else 0)
    if not takers or late > left * step.narrow_cost / blocks + PART_COST:
        takers = list(range(blocks))
    for i, block in enumerate(takers):
        shares[block] += left * (i + 1) // len(takers) - left * i // len(takers)
    ends = list(accumulate(shares))
    slots = first = 0
    for block, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        items = []
        while start < end:
            col, k_start = divmod(start, k_steps)
            k_end = min(k_steps, k_start + end - start)
            first = slots if k_start == 0 else first
            if k_end < k_steps:
                items.append(Item(schedule.narrow_expert, 0, col, k_start, k_end, slots))
                slots += 1
            else:
                items.append(Item(schedule.narrow_expert, 0, col, k_start, k_end, -1, first, slots))
            start += k_end - k_start
        # From the end: what the next block waits for comes first, and what this one waits for has long been left.
        schedule.narrow[block] = items[::-1]
    schedule.narrow_parts = slots


def _every(schedule: Schedule) -> list[int]:
    """After how many wide steps a block takes a narrow one, such that no block waits for ever."""
    every = _paced(schedule)
    lists = list(zip(schedule.wide, schedule.narrow, every, strict=True))
    # A block leaves its narrow sums first of all narrow work, so if every block does that before it waits for wide
    # sums, all narrow sums come; if every block waits for narrow sums only after its wide items, all wide sums come.
    if all(_leaves_in_time(*one) for one in lists) or all(_waits_at_the_end(*one) for one in lists):
        return every
    sooner = [_sooner(*one) for one in lists]
    # Nearly the pace that was wanted, or none.
    if all(6 * fast >= 5 * pace for fast, pace in zip(sooner, every, strict=True)):
        return sooner
    return [AT_THE_END] * schedule.blocks


def _sooner(wide: list[Item], narrow: list[Item], every: int) -> int:
    """The same pace, or the longest one at which a block leaves its narrow sums before it first waits for wide ones; 0
    if there is none."""
    if _leaves_in_time(wide, narrow, every):
        return every
    return (_first_wait(wide) - 1) // narrow[0].steps


def _paced(schedule: Schedule) -> list[int]:
    """About the same for all blocks, so that they stay in step and read the same rows at the same time: evenly over
    the busiest blocks' wide steps. One that took its last of 23 no later than another the 23rd of 24 would wait for
    that one's sums (gate_up of 8208 rows in fp8: 84 steps). If only blocks with time to spare have narrow items, those
    come last, unless the spare time is so short that memory could not deliver them in it."""
    wide, narrow = _steps(schedule.wide), _steps(schedule.narrow)
    most = max(wide)
    busiest = max(n for w, n in zip(wide, narrow, strict=True) if w == most)
    if busiest:
        return [max(1, most // min(max(n, 1), busiest)) for n in narrow]
    return [max(1, w // n) if n and most - w < SHORT_TIME else AT_THE_END for w, n in zip(wide, narrow, strict=True)]


def _leaves_in_time(wide: list[Item], narrow: list[Item], every: int) -> bool:
    """Whether a block has left its narrow sums for others before it first waits for wide ones."""
    leaves = narrow[0].steps * every if narrow and narrow[0].slot >= 0 else 0
    return leaves < _first_wait(wide)


def _first_wait(wide: list[Item]) -> int:
    """After how many wide steps a block first waits for wide sums of others."""
    ends = accumulate(item.steps for item in wide)
    waits = (end for end, item in zip(ends, wide, strict=True) if item.own and item.first < item.last)
    return next(waits, AT_THE_END * AT_THE_END)


def _waits_at_the_end(wide: list[Item], narrow: list[Item], every: int) -> bool:
    """Whether a block waits for narrow sums of others only when its wide items are done."""
    ends = accumulate(item.steps for item in narrow)
    waits = [end for end, item in zip(ends, narrow, strict=True) if item.slot < 0 and item.first < item.last]
    return not waits or waits[0] * every >= sum(item.steps for item in wide)
