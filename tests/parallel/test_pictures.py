"""The same pictures and texts from 1, 2, 3 and 4 ranks: within the oracle's limits of what the original made."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.harness.conformance import FLOAT32, PNG_SHARE, PNG_STEP, STATE, difference

STORED = Path(__file__).parents[1] / "data" / "bagel_oracle" / "cases"
WORLDS = [("tensor", 1), ("tensor", 2), ("tensor", 4), ("sequence", 2), ("sequence", 3), ("sequence", 4)]
PICTURES = ("t2i_base", "edit_base", "t2i_think")

worlds = pytest.mark.parametrize(("mode", "size"), WORLDS, ids=[f"{mode}-{size}" for mode, size in WORLDS])


@worlds
@pytest.mark.parametrize("case", PICTURES)
def test_every_update_is_the_originals(results: Path, mode: str, size: int, case: str) -> None:
    stored = load_file(STORED / case / "tensors.safetensors")
    ours = load_file(results / f"{mode}-{size}-{case}-0.safetensors")
    names = ours.keys() & stored.keys()
    assert {"x_t", "v_t", "final_latents"} <= names
    differences = [difference(name, ours[name], stored[name], FLOAT32.get(name, STATE)) for name in names]
    assert [d for d in differences if not d.ok] == []


@worlds
@pytest.mark.parametrize("case", ["t2i_base", "edit_base"])
def test_picture_is_the_originals(results: Path, mode: str, size: int, case: str) -> None:
    paths = (results / f"{mode}-{size}-{case}-0.png", STORED / case / "output.png")
    ours, stored = (np.array(Image.open(path)).astype(int) for path in paths)
    apart = np.abs(ours - stored)
    assert apart.max() <= PNG_STEP
    assert (apart > 0).mean() <= PNG_SHARE


@worlds
def test_text_is_the_originals(results: Path, mode: str, size: int) -> None:
    ids = json.loads((results / f"{mode}-{size}-und_image-0.json").read_text())
    assert ids == json.loads((STORED / "und_image" / "case.json").read_text())["generated_ids"]


@worlds
@pytest.mark.parametrize("case", PICTURES)
def test_ranks_have_the_same_latents_to_the_bit(results: Path, mode: str, size: int, case: str) -> None:
    first, *others = (
        load_file(results / f"{mode}-{size}-{case}-{rank}.safetensors")["final_latents"] for rank in range(size)
    )
    assert all(torch.equal(first, other) for other in others)


# 20 image tokens and two markers.
@pytest.mark.parametrize(
    ("mode", "size", "rows"),
    [("tensor", 2, [22, 22]), ("sequence", 2, [12, 12]), ("sequence", 3, [9, 9, 8]), ("sequence", 4, [7, 7, 7, 7])],
    ids=["tensor-2", "sequence-2", "sequence-3", "sequence-4"],
)
def test_image_rows_are_divided_and_text_rows_are_not(results: Path, mode: str, size: int, rows: list[int]) -> None:
    runs = [load_file(results / f"{mode}-{size}-edit_base-{rank}.safetensors") for rank in range(size)]
    assert [int(run["rows of the first pass"]) for run in runs] == rows
