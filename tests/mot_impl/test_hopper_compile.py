"""The Hopper kernel compiles for sm_90 on a machine without a GPU: no spilled register, and wgmma as it was written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton

from mot_impl.heuristic import HOPPER_TILES
from mot_impl.tiles import HOPPER_TRITON, TileTable

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = 232_448
"""Bytes that one block may use on sm_90."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> list[dict[str, Any]]:
    """In another process: interpreted and compiled kernels cannot share this one."""
    assert triton.__version__.startswith(HOPPER_TRITON), "the Hopper kernel is written in the Gluon of another Triton"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/mot_impl/compile_hopper.py")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_compiles_in_every_kind_gated_or_not_with_and_without_bias(compiled):
    """Of the rule's tile; a tuned number of stages is compiled for its own op and dtype."""
    found = {kind: [one["variant"] for one in compiled if one["variant"].endswith(str(HOPPER_TILES[kind]))]
             for kind in ("dense", "fp8")}  # fmt: skip
    assert {kind: len(set(names)) for kind, names in found.items()} == {"dense": 8, "fp8": 8}


def test_it_compiles_in_every_tuned_number_of_stages(compiled):
    tuned = {
        str(tile.stages)
        for file in TileTable.load(None).files
        for key, _, tile in file.entries
        if tile.kind == "hopper" and key.dtype != "int8"
    }
    assert (len(tuned) > 0, tuned - {one["variant"][-1] for one in compiled}) == (True, set())


def test_no_register_is_spilled(compiled):
    """Exact sums of fp8 aside: they leave 24 registers of 232 for all else."""
    spilled = {one["variant"]: one["spilled_bytes"] for one in compiled if not one["exact"] and one["spilled_bytes"]}
    assert spilled == {}


def test_no_register_is_spilled_where_products_are(compiled):
    spilled = {one["variant"] for one in compiled if one["spills_among_products"]}
    assert (any(one["exact"] and one["spilled_bytes"] for one in compiled), spilled) == (True, set())


def test_it_fits_the_shared_memory(compiled):
    assert {one["variant"]: one["shared_bytes"] for one in compiled if one["shared_bytes"] > SHARED_MEMORY} == {}


def test_products_run_asynchronously_on_tensor_cores(compiled):
    """12 a warpgroup: four of 256 columns in a wide step, twice four of 16 in a narrow one; exact, four more."""
    found = {(one["exact"], one["wgmma"], one["serialised"]) for one in compiled}
    assert found == {(False, 24, False), (True, 32, False)}
