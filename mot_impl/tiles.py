"""Which tile for which problem, and where the choice came from.

Three tiers, first hit wins: the folder the user names, the measured files of this package (`tuned/<device>.json`), a
heuristic. A file holds what one device measured:

    {"schema": 1, "device": "NVIDIA H100 80GB HBM3", "made": {"date": ..., "command": ..., "torch": ..., "triton": ...},
     "entries": [{"op": "linear", "dtype": "bfloat16", "m": 4098, "n": 4608, "k": 3584,
                  "tile": {"block_m": 128, "block_n": 256, "block_k": 64, "warps": 8, "stages": 3}}]}

Within a file an entry of the same op, dtype, N and K whose M is nearest, by ratio, is taken.
"""

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton

from mot_impl.device import INTERPRETED
from reference_impl.contract import Problem, require

SCHEMA = 1

TUNED = Path(__file__).parent / "tuned"

ALIASES = {"A800": "A100", "H800": "H100"}
"""Chips with the same multiprocessors and slower links: their tiles are those of the other."""

DEFAULT_SHARED_MEMORY = 232_448
"""Bytes a block may use on sm_90; a device that is asked says its own."""


@dataclass(frozen=True)
class Tile:
    """How a matrix kernel divides its problem.

    block_m, block_n, block_k  rows of x, columns of the output and depth of one step; powers of two, at least 16
    warps, stages              threads over 32, and steps whose loads are in flight
    group_m                    row tiles that share weight columns before the next columns are begun, for the L2 cache
    kind                       which kernel: "gather" reads x's rows by index, "hopper" reads sorted rows in blocks

    Example: `str(Tile(128, 256, 64, 8, 3)) == "128x256x64 w8 s3"`.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    group_m: int = 8
    kind: str = "gather"

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

    def __str__(self) -> str:
        kind = "" if self.kind == "gather" else f"{self.kind} "
        return f"{kind}{self.block_m}x{self.block_n}x{self.block_k} w{self.warps} s{self.stages}"

    def shared_memory(self, itemsize: int, accumulators: int) -> int:
        """Bytes that the loads in flight take; a kernel with two accumulators loads two weight blocks a step."""
        return self.stages * (self.block_m + accumulators * self.block_n) * self.block_k * itemsize


HOPPER_TILE = Tile(128, 256, 64, warps=8, stages=4, kind="hopper")
"""The only tile of the Hopper kernel: two warpgroups that multiply, and a ring that fills the shared memory."""

HOPPER_ROWS = 256
"""From how many rows the Hopper kernel is chosen; below, its tiles of 128 rows are mostly padding."""

HOPPER_TRITON = "3.6."
"""The Triton whose Gluon mot_impl/hopper*.py are written in."""


@dataclass(frozen=True)
class TileChoice:
    """A tile and where it came from: "heuristic", "interpreter", "tuned: FILE, M=4098" or "user: FILE, M=4098"."""

    tile: Tile
    origin: str

    def __str__(self) -> str:
        return f"{self.tile} ({self.origin})"


@dataclass(frozen=True)
class TuneKey:
    """What a measured tile belongs to, apart from M. `dtype` is PyTorch's name without the prefix."""

    op: str
    dtype: str
    n: int
    k: int


@dataclass(frozen=True)
class TuneFile:
    """One tile file. `tier` is "user" or "tuned"; entries are (key, M, tile)."""

    tier: str
    name: str
    device: str
    entries: tuple[tuple[TuneKey, int, Tile], ...]

    def choose(self, key: TuneKey, m: int, hopper: bool = False) -> TileChoice | None:
        """The entry of `key` whose M is nearest to `m` by ratio; None if there is none. Tiles of the Hopper kernel
        count only where it can run."""
        found = [
            (entry_m, tile)
            for entry_key, entry_m, tile in self.entries
            if entry_key == key and (hopper or tile.kind != "hopper")
        ]
        if not found:
            return None
        nearest, tile = min(found, key=lambda entry: max(entry[0] / max(m, 1), max(m, 1) / entry[0]))
        return TileChoice(tile, f"{self.tier}: {self.name}, M={nearest}")


@dataclass(frozen=True)
class TileTable:
    """Tile files in the order in which they are asked, and the heuristic behind them."""

    files: tuple[TuneFile, ...] = ()
    _chosen: dict[Problem, TileChoice] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, user_folder: Path | None) -> "TileTable":
        """The user's folder, if one is named, then the package's own.

        Raises ValueError if the folder holds no tile file or a file is not one, OSError if it cannot be read.
        """
        files = [] if user_folder is None else list(_read_folder(user_folder, "user"))
        require(
            user_folder is None or bool(files),
            "{} holds no tile file; name a folder with files like {}",
            user_folder,
            "NVIDIA_H100_80GB_HBM3.json",
        )
        return cls((*files, *_read_folder(TUNED, "tuned")))

    def choose(self, problem: Problem) -> TileChoice:
        """The tile for `problem`, remembered: a call costs one dictionary lookup after the first."""
        choice = self._chosen.get(problem)
        if choice is None:
            choice = self._chosen[problem] = self._search(problem)
        return choice

    def _search(self, problem: Problem) -> TileChoice:
        device = device_name(problem.device)
        key = TuneKey(problem.op, str(problem.dtype).removeprefix("torch."), problem.n, problem.k)
        for file in self.files:
            if file.device == device and (choice := file.choose(key, problem.m, hopper_can(problem))):
                return choice
        if INTERPRETED:
            return TileChoice(interpreter_tile(problem), "interpreter")
        if problem.m >= HOPPER_ROWS and hopper_can(problem):
            return TileChoice(HOPPER_TILE, "heuristic")
        return TileChoice(heuristic_tile(problem, shared_memory(problem.device)), "heuristic")


def device_name(device: torch.device) -> str:
    """The name a tile file goes by: `NVIDIA_H800_PCIe` -> `NVIDIA_H100_PCIe`; `cpu` for the interpreter."""
    return file_name(torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)


def file_name(device: str) -> str:
    """A device's name as a file's, aliases resolved: "NVIDIA H800 PCIe" -> "NVIDIA_H100_PCIe"."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", device).strip("_")
    for alias, chip in ALIASES.items():
        name = re.sub(rf"(?<![A-Za-z0-9]){alias}(?![A-Za-z0-9])", chip, name)
    return name


def hopper_can(problem: Problem) -> bool:
    """Whether the Hopper kernel computes `problem`: sorted rows in half precision, rows of 16-byte multiples for TMA,
    the chip, and the Triton that it is written for."""
    return (
        problem.image_first
        and problem.dtype in (torch.float16, torch.bfloat16)
        and problem.k % 8 == 0
        and problem.n % 8 == 0
        and problem.device.type == "cuda"
        and torch.cuda.get_device_capability(problem.device) == (9, 0)
        and triton.__version__.startswith(HOPPER_TRITON)
    )


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one block may use on `device`."""
    if device.type != "cuda":
        return DEFAULT_SHARED_MEMORY
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)


def accumulators(op: str) -> int:
    """How many accumulators of block_n columns a kernel keeps: gate and up are two."""
    return 2 if op == "gated_linear" else 1


def heuristic_tile(problem: Problem, shared_memory_bytes: int = DEFAULT_SHARED_MEMORY) -> Tile:
    """A sensible tile for sm_80 and newer, smaller for fewer rows, cut to the shared memory that there is.

    Measured on an H100: 128x256x64 with 8 warps and 3 stages is the best plain tile for the sizes of BAGEL. float32
    multiplies without tensor cores and compensates its sums, which takes three registers a value: its tiles are small.
    """
    halves = accumulators(problem.op)
    if problem.dtype == torch.float32:
        tile = Tile(16 if problem.m <= 16 else 64, 64 // halves, 32, 4, 3)
    elif problem.m <= 16:
        tile = Tile(16, 128 // halves, 128, 4, 4)
    elif problem.m <= 64:
        tile = Tile(64, 128 // halves, 64, 4, 4)
    elif problem.m <= 512:
        tile = Tile(128, 128 // halves, 64, 8, 4)
    else:
        tile = Tile(128, 256 // halves, 64, 8, 3)
    while tile.shared_memory(problem.dtype.itemsize, halves) > shared_memory_bytes and tile.stages > 1:
        tile = dataclasses.replace(tile, stages=tile.stages - 1)
    return tile


def interpreter_tile(problem: Problem) -> Tile:
    """The largest tile that the problem fills: the interpreter's cost goes with the number of steps."""
    block_n = _fill(problem.n, 2048 // accumulators(problem.op))
    return Tile(_fill(problem.m, 512), block_n, _fill(problem.k, 2048), warps=4, stages=1)


def _fill(size: int, most: int) -> int:
    return min(most, max(16, 1 << (size - 1).bit_length())) if size else 16


def _read_folder(folder: Path, tier: str) -> Iterable[TuneFile]:
    if tier == "user" and not folder.is_dir():
        raise NotADirectoryError(f"tile folder {folder} is not a folder; name one that holds tile files")
    return [_read_file(path, tier) for path in sorted(folder.glob("*.json"))]


def _read_file(path: Path, tier: str) -> TuneFile:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']} is not {SCHEMA}")
        entries = tuple(
            (TuneKey(entry["op"], entry["dtype"], entry["n"], entry["k"]), entry["m"], Tile(**entry["tile"]))
            for entry in content["entries"]
        )
        device = file_name(content["device"])
        if device != file_name(path.stem):
            raise ValueError(f"it names device {content['device']!r}; the file must be called {device}.json")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a tile file ({type(error).__name__}: {error}); see docs/tuning.md") from error
    return TuneFile(tier, path.name, device, entries)
