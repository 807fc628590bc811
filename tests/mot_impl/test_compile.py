"""Every kernel compiles on a machine without a GPU, for every chip it is declared for, spills nothing and fits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SHARED_MEMORY = {80: 166_912, 90: 232_448, 100: 232_448}
"""Bytes that one block may use, by compute capability."""

EIGHT_BIT = {"_quantise_kernel", "_quantised_norm_kernel"}
"""Kernels that make 8-bit floats, which begin with capability 8.9."""

ROOT = Path(__file__).parents[2]


class Compiled(NamedTuple):
    kernels: list[str]
    variants: list[dict[str, Any]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Compiled:
    """One process for all of them: interpreted and compiled kernels cannot share this one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/mot_impl/compile_kernels.py")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernels, *variants = (json.loads(line) for line in done.stdout.splitlines())
    return Compiled(kernels, variants)


def test_every_kernel_is_compiled(compiled):
    assert {one["kernel"] for one in compiled.variants} == set(compiled.kernels)


def test_every_kernel_is_compiled_in_every_dtype(compiled):
    names = {tuple(one["variant"].split()[:2]) for one in compiled.variants}
    assert names == {(kernel, dtype) for kernel in compiled.kernels for dtype in ("fp32", "fp16", "bf16")}


def test_every_kernel_is_compiled_for_every_chip(compiled):
    found = {(one["kernel"], one["capability"]) for one in compiled.variants}
    declared = {(kernel, capability) for kernel in compiled.kernels for capability in SHARED_MEMORY}
    assert found == declared - {(kernel, 80) for kernel in EIGHT_BIT}


def test_no_kernel_spills_registers(compiled):
    assert {one["variant"]: one["spilled_bytes"] for one in compiled.variants if one["spilled_bytes"]} == {}


def test_every_kernel_fits_the_shared_memory(compiled):
    too_large = {one["variant"] for one in compiled.variants if one["shared_bytes"] > SHARED_MEMORY[one["capability"]]}
    assert too_large == set()


def test_float32_never_becomes_tf32(compiled):
    assert {one["variant"] for one in compiled.variants if one["tf32"]} == set()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_multiplies_on_tensor_cores(compiled, dtype):
    matrix = [one for one in compiled.variants if " K=" in one["variant"]]
    slow = {one["variant"] for one in matrix if f" {dtype} " in one["variant"] and not one["tensor_cores"]}
    assert (len(matrix) > 0, slow) == (True, set())


def test_large_tiles_on_sm_90_multiply_asynchronously_and_never_one_after_the_other(compiled):
    large = {
        one["variant"]: (one["wgmma"] > 0, one["serialised"])
        for one in compiled.variants
        if one["capability"] == 90 and " 128x" in one["variant"] and " fp32 " not in one["variant"]
    }
    assert (len(large) > 0, {name: found for name, found in large.items() if found != (True, False)}) == (True, {})
