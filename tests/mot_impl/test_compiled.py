"""What is compiled ahead of a launch is what the launch asks for; and what the compiler is never asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton

import mot_impl
from mot_impl import compiled
from mot_impl.linear import _linear_kernel
from mot_impl.mlp import _gated_kernel
from mot_impl.tiles import HOPPER_TILE, Tile, TileTable, TuneFile, TuneKey, device_name
from reference_impl.contract import Experts, Problem, Route

ROOT = Path(__file__).parents[2]
TILE = Tile(16, 32, 32, 4, 2)
AHEAD_AND_LAUNCHED = """
import sys
import torch
from mot_impl import compiled
from mot_impl.linear import _linear_kernel, launch_routed
from mot_impl.mlp import _gated_kernel
from mot_impl.tiles import Tile
from reference_impl.contract import Experts, Problem, Route

asked = []
def record(kernel, n, on, *arguments, **constants):
    asked.append((kernel, arguments, constants))
sys.modules["mot_impl.linear"].launch = record
tile = Tile(16, 32, 32, 4, 2)
for op, kernel, bias in (("linear", _linear_kernel, True), ("gated_linear", _gated_kernel, False)):
    problem = Problem(op, 50, 64, 96, torch.bfloat16, torch.device("cpu"))
    ahead = compiled.warm(*compiled._gather(problem, tile, bias), 90)
    weight = torch.zeros(2, 64 * (2 if op == "gated_linear" else 1), 96, dtype=torch.bfloat16)
    experts = Experts(weight, weight[:, :, 0].contiguous() if bias else None)
    x, y = torch.zeros(50, 96, dtype=torch.bfloat16), torch.zeros(50, 64, dtype=torch.bfloat16)
    launch_routed(kernel, x, experts, y, Route.image_then_text(47, 3, "cpu"), tile)
    kernel, arguments, constants = asked.pop()
    with compiled._compiling_for(90):
        launched = kernel.warmup(*arguments, **constants, grid=(1,))
    print(op, ahead.hash == launched.hash)
"""


def test_a_launch_of_the_plain_kernel_asks_for_what_was_compiled_ahead(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", AHEAD_AND_LAUNCHED]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["linear True", "gated_linear True"], done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("op", ["linear", "gated_linear"])
@pytest.mark.parametrize("image_first", [True, False], ids=["sorted", "any"])
def test_a_launch_finds_what_was_compiled_ahead(op, image_first, tmp_path, monkeypatch):
    device, dtype = torch.device("cuda", 0), torch.bfloat16
    major, minor = torch.cuda.get_device_capability(device)
    problem = Problem(op, 50, 64, 96, dtype, device, image_first)
    entries = tuple((TuneKey.of(problem), 50, tile) for tile in (HOPPER_TILE, TILE))
    table = TileTable((TuneFile("user", "one", device_name(device), entries),))
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    compiled.compile_tile(problem, table.choose(problem).tile, bias=False, capability=10 * major + minor)
    for kernel in (_linear_kernel, _gated_kernel, *hopper_kernels(table.choose(problem).tile)):
        kernel.device_caches.clear()  # what earlier tests compiled in this process
    hits: list[bool] = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda **told: hits.append(told["cache_hit"]))
    experts = Experts(torch.randn(2, 64 * (2 if op == "gated_linear" else 1), 96, device=device, dtype=dtype))
    x = torch.randn(50, 96, device=device, dtype=dtype)
    route = Route.image_then_text(47, 3, device)
    getattr(mot_impl.fused_ops(table), op)(x, experts, route if image_first else Route(route.rows, 3))
    assert hits == [True]


def hopper_kernels(tile: Tile) -> tuple:
    """Imported only where it can be."""
    if tile.kind != "hopper":
        return ()
    from mot_impl.hopper import _hopper_kernel

    return (_hopper_kernel,)


@pytest.mark.skipif(not mot_impl.device.INTERPRETED, reason="kernels are compiled in this process")
def test_an_interpreting_process_refuses_to_compile():
    problem = Problem("linear", 50, 64, 96, torch.bfloat16, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"TRITON_INTERPRET=1; unset it to compile"):
        compiled.compile_tile(problem, TILE, bias=False, capability=90)


def test_an_op_without_tiles_is_refused():
    problem = Problem("rms_norm", 50, 64, 96, torch.bfloat16, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"op 'rms_norm' has no tiles; name linear or gated_linear"):
        compiled.compile_tile(problem, TILE, bias=False, capability=90)


def test_tiles_of_the_hopper_kernel_that_differ_on_the_host_only_are_one_variant():
    problem = Problem("linear", 1026, 64, 96, torch.bfloat16, torch.device("cuda"))
    tiles = [HOPPER_TILE, Tile(128, 256, 64, 8, 4, 16, "hopper", 2)]
    assert len({compiled.variant(problem, tile, False) for tile in tiles}) == 1
