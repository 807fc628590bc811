"""The kernels of int8 weights compile on a machine without a GPU: no spilled register, and products as written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mot_impl.compiled import SHARED_MEMORY

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> list[dict[str, Any]]:
    """In another process: interpreted and compiled kernels cannot share this one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/mot_impl/compile_int8.py")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_kind(compiled: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in compiled if one["kind"] == kind]


def test_the_hopper_kernel_compiles_in_both_dtypes_gated_or_not_with_and_without_bias_and_for_few_rows(compiled):
    assert len({one["variant"] for one in of_kind(compiled, "hopper")}) == 8 + 4


def test_the_other_compiles_for_every_capability_that_it_is_declared_for(compiled):
    assert {one["capability"] for one in of_kind(compiled, "gather")} == {80, 90, 100}


def test_no_register_is_spilled(compiled):
    assert {one["variant"]: one["spilled_bytes"] for one in compiled if one["spilled_bytes"]} == {}


def test_they_fit_the_shared_memory(compiled):
    over = {
        one["variant"]: one["shared_bytes"]
        for one in compiled
        if one["shared_bytes"] > SHARED_MEMORY[one["capability"]]
    }
    assert over == {}


def test_products_of_the_hopper_kernel_run_asynchronously(compiled):
    """8 a warpgroup: four of 256 tokens in a wide step, four of 16 in a narrow one."""
    assert {(one["wgmma"], one["serialised"]) for one in of_kind(compiled, "hopper")} == {(16, False)}
