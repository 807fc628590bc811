"""How a matrix kernel divides its problem, as a value."""

from dataclasses import dataclass
from itertools import chain

from reference_impl.contract import require

HOPPER_BLOCKS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "dense": ((128, 256, 64, 8),),
    "fp8": ((128, 256, 128, 8),),
    "int8": ((256, 128, 64, 8), (128, 128, 64, 8), (64, 128, 64, 8)),
}
"""block_m, block_n, block_k and warps of the Hopper kernels, by kind of experts; they have no others."""

MOST_PIECES = 4
"""Blocks that share a tile of a Hopper kernel finish a quarter of it each, at least."""
GATHER_PIECES = 8
"""Where one block adds up all pieces of a tile, more cost more than they gain."""


@dataclass(frozen=True)
class Tile:
    """How a matrix kernel divides its problem.

    block_m, block_n, block_k  rows of x, columns of the output and depth of one step; powers of two, at least 16
    warps, stages              threads over 32, and steps whose loads are in flight
    group_m                    row tiles that share weight columns before the next columns are begun, for the L2 cache
    kind                       which kernel: "gather" reads x's rows by index, "hopper" reads sorted rows in blocks
    pieces                     "hopper": into how many ranges of K the tiles beyond the last full round are cut, up to
                               4; 0 leaves it to the kernel's schedule. "gather" with int8 weights only: into how many
                               every tile is cut, up to 8; 0 is 1

    Example: `str(Tile(128, 256, 64, 8, 3)) == "128x256x64 w8 s3"`; group_m and pieces follow if they are not 8 and 0.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    group_m: int = 8
    kind: str = "gather"
    pieces: int = 0

    def __post_init__(self) -> None:
        for name in ("block_m", "block_n", "block_k"):
            size = getattr(self, name)
            require(
                isinstance(size, int) and size >= 16 and size & (size - 1) == 0,
                "tile has {}={}; it must be a power of two, at least 16",
                name,
                size,
            )
        require(self.warps in (1, 2, 4, 8, 16, 32), "tile has warps={}; it must be a power of two up to 32", self.warps)
        require(self.stages >= 1, "tile has stages={}; it must be at least 1", self.stages)
        require(self.group_m >= 1, "tile has group_m={}; it must be at least 1", self.group_m)
        require(
            self.kind != "hopper" or self.blocks in chain(*HOPPER_BLOCKS.values()),
            "tile is {} but kind 'hopper' has only {}",
            self,
            "; ".join(f"{_said(kind)} for {kind} experts" for kind in HOPPER_BLOCKS),
        )
        require(
            self.pieces in range((MOST_PIECES if self.kind == "hopper" else GATHER_PIECES) + 1),
            "tile has pieces={}; it must be 0, or up to {} for kind 'hopper' and {} for 'gather'",
            self.pieces,
            MOST_PIECES,
            GATHER_PIECES,
        )

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """What kernels that have only some are asked for."""
        return self.block_m, self.block_n, self.block_k, self.warps

    def __str__(self) -> str:
        kind = "" if self.kind == "gather" else f"{self.kind} "
        more = (f" g{self.group_m}" if self.group_m != 8 else "") + (f" p{self.pieces}" if self.pieces else "")
        return f"{kind}{self.block_m}x{self.block_n}x{self.block_k} w{self.warps} s{self.stages}{more}"

    def shared_memory(self, itemsize: int, accumulators: int) -> int:
        """Bytes that the loads in flight take; a kernel with two accumulators loads two weight blocks a step."""
        return self.stages * (self.block_m + accumulators * self.block_n) * self.block_k * itemsize


def _said(kind: str) -> str:
    """The blocks that a kind of experts has: "128x256x64 w8"."""
    return ", ".join(f"{m}x{n}x{k} w{warps}" for m, n, k, warps in HOPPER_BLOCKS[kind])


@dataclass(frozen=True)
class TileChoice:
    """A tile and where it came from: "heuristic", "interpreter", "tuned: FILE, M=4098" or "user: FILE, M=4098"."""

    tile: Tile
    origin: str

    def __str__(self) -> str:
        return f"{self.tile} ({self.origin})"
