"""Which tile for which problem, and where the choice came from.

Three tiers, first hit wins: the folder the user names, the measured files of this package (`tuned/<device>.json`), a
heuristic. A file holds what one device measured:

    {"schema": 1, "device": "NVIDIA H100 80GB HBM3", "made": [{"date": ..., "command": ..., "torch": ...}],
     "entries": [{"op": "linear", "dtype": "bfloat16", "m": 4098, "n": 4608, "k": 3584,
                  "tile": {"block_m": 128, "block_n": 256, "block_k": 64, "warps": 8, "stages": 3}}]}

Within a file an entry of the same op, dtype, N and K whose M is nearest, by ratio, is taken; of several at one M the
first that can run. docs/tuning.md is the whole format.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mot_impl.heuristic import HOPPER_TILE, HOPPER_TRITON, heuristic_tile, hopper_can, interpreter_tile, rule
from mot_impl.tile import Tile, TileChoice
from reference_impl.contract import Problem, require

__all__ = [
    "HOPPER_TILE",
    "HOPPER_TRITON",
    "Tile",
    "TileChoice",
    "TileTable",
    "TuneFile",
    "TuneKey",
    "device_name",
    "file_name",
    "heuristic_tile",
    "hopper_can",
    "interpreter_tile",
    "likeness",
]

SCHEMA = 1

TUNED = Path(__file__).parent / "tuned"

ALIASES = {"A800": "A100", "H800": "H100"}
"""Chips with the same multiprocessors and slower links: their tiles are those of the other."""


@dataclass(frozen=True)
class TuneKey:
    """What a measured tile belongs to, apart from M. `dtype` is PyTorch's name without the prefix, or the kind of
    quantised experts: "fp8", "int8"; "int8 float32" if the rows are, which tiles of 16-bit rows need not fit."""

    op: str
    dtype: str
    n: int
    k: int

    @classmethod
    def of(cls, problem: Problem) -> "TuneKey":
        """The key of a problem."""
        dtype = str(problem.dtype).removeprefix("torch.") if problem.kind == "dense" else str(problem.kind)
        if problem.kind == "int8" and problem.dtype == torch.float32:
            dtype = "int8 float32"
        return cls(problem.op, dtype, problem.n, problem.k)


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
        key = TuneKey.of(problem)
        for file in self.of_device(device_name(problem.device)):
            if choice := file.choose(key, problem.m, hopper_can(problem)):
                return choice
        return rule(problem)

    def of_device(self, device: str) -> list[TuneFile]:
        """The files that a device reads, in order: tier by tier, its own before those of cards with the same chip."""
        kin = [(likeness(file.device, device), file) for file in self.files]
        tiers = list(dict.fromkeys(file.tier for file in self.files))
        found = [pair for pair in kin if pair[0]]
        return [file for _, file in sorted(found, key=lambda pair: (tiers.index(pair[1].tier), -pair[0]))]

    def knows(self, device: str, dtype: torch.dtype) -> bool:
        """Whether any file has tiles for this device, by name, and dtype."""
        name = str(dtype).removeprefix("torch.")
        return any(key.dtype == name for file in self.of_device(device) for key, _, _ in file.entries)


def device_name(device: torch.device) -> str:
    """The name of a device as a tile file goes by it: `NVIDIA_H100_PCIe`; `cpu` for the interpreter."""
    return file_name(torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)


def file_name(device: str) -> str:
    """A device's name as a file's: "NVIDIA H800 PCIe" -> "NVIDIA_H800_PCIe"."""
    return re.sub(r"[^A-Za-z0-9]+", "_", device).strip("_")


def likeness(one: str, other: str) -> int:
    """How many words the names of two cards with the same chip share; 0 if the chips differ, or one is a MIG slice.

    `NVIDIA_H800` and `NVIDIA_H100_80GB_HBM3`: 2, because an H800 is an H100. A device is most like itself.
    """
    if one == other:
        return len(one)
    first, second = ([ALIASES.get(word, word) for word in name.split("_")] for name in (one, other))
    same = _chip(first) == _chip(second) != ""
    return len({*first} & {*second}) if same and "MIG" not in {*first, *second} else 0


def _chip(words: list[str]) -> str:
    """The first word like `H100`, `L40S` or `A6000`."""
    return next((word for word in words if re.fullmatch(r"[A-Z]{1,2}[0-9]{2,4}S?", word)), "")


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
        for _, m, _ in entries:
            require(isinstance(m, int) and m > 0, "an entry has m={!r}; it must be a positive whole number", m)
        device = file_name(content["device"])
        if device != file_name(path.stem):
            raise ValueError(f"it names device {content['device']!r}; the file must be called {device}.json")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a tile file ({type(error).__name__}: {error}); see docs/tuning.md") from error
    return TuneFile(tier, path.name, device, entries)
