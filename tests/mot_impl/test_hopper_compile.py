"""The Hopper kernel compiles for sm_90 on a machine without a GPU: no spilled register, and wgmma as it was written."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton

from mot_impl.tiles import HOPPER_TILE, HOPPER_TRITON, TileTable

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


def test_it_compiles_in_both_dtypes_gated_or_not_with_and_without_bias(compiled):
    """Of the rule's tile; a tuned number of stages is compiled for its own op and dtype."""
    assert len({one["variant"] for one in compiled if one["variant"].endswith(str(HOPPER_TILE))}) == 8


def test_it_compiles_in_every_tuned_number_of_stages(compiled):
    tuned = {
        str(dataclasses.replace(HOPPER_TILE, stages=tile.stages))
        for file in TileTable.load(None).files
        for _, _, tile in file.entries
        if tile.kind == "hopper"
    }
    assert (len(tuned) > 0, tuned - {one["variant"][-len(str(HOPPER_TILE)) :] for one in compiled}) == (True, set())


def test_no_register_is_spilled(compiled):
    assert {one["variant"]: one["spilled_bytes"] for one in compiled if one["spilled_bytes"]} == {}


def test_it_fits_the_shared_memory(compiled):
    assert {one["variant"]: one["shared_bytes"] for one in compiled if one["shared_bytes"] > SHARED_MEMORY} == {}


def test_products_run_asynchronously_on_tensor_cores(compiled):
    """12 a warpgroup: four of 256 columns in a wide step, twice four of 16 in a narrow one."""
    assert {(one["wgmma"], one["serialised"]) for one in compiled} == {(24, False)}
