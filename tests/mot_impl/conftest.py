"""Where the fused kernels run in this process, and tile tables that make them take many steps."""

import json
from pathlib import Path

import pytest
import torch

import mot_impl.device
from benchmarks.harness.shapes import LAYERS, ODD, SMALL
from mot_impl.tiles import TileTable, device_name


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The interpreter's CPU, or the GPU if kernels are compiled in this process."""
    return torch.device("cpu") if mot_impl.device.INTERPRETED else torch.device("cuda", 0)


@pytest.fixture(scope="module", autouse=True)
def small_products(one_thread: None) -> None:
    """Nothing here gains from a second thread."""


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every uninitialised float tensor holds NaN, so that an unwritten value of an output shows."""
    empty = torch.empty

    def empty_of_nan(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", empty_of_nan)


@pytest.fixture
def small_tiles(tmp_path: Path, device: torch.device) -> TileTable:
    """A user's folder whose tiles divide the small shapes into several steps along every axis."""
    tile = {"block_m": 32, "block_n": 64, "block_k": 32, "warps": 4, "stages": 2, "group_m": 2}
    sizes = [("linear", *shape.layer(name)) for shape in (SMALL, ODD) for name in LAYERS]
    sizes += [("gated_linear", shape.intermediate, shape.hidden) for shape in (SMALL, ODD)]
    entries = [
        {"op": op, "dtype": str(dtype).removeprefix("torch."), "m": 64, "n": n, "k": k, "tile": tile}
        for op, n, k in sizes
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ]
    name = device_name(device)
    content = {"schema": 1, "device": name, "made": {}, "entries": entries}
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return TileTable.load(tmp_path)
