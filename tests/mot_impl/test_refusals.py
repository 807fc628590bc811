"""What the fused twin refuses: device and dtype named, with the cure, and never a fallback."""

import os
import subprocess
import sys

import pytest
import torch

import mot_impl
from benchmarks.harness.inputs import CASES, WORK, Work, arguments, quantised
from mot_impl import hopper_int8_launch, hopper_launch
from mot_impl.device import INTERPRETED
from mot_impl.linear import launch_routed
from mot_impl.norm import WIDEST
from mot_impl.tiles import Tile
from reference_impl.contract import Experts, Problem, QKNorm, Rotary, Route

OPS = mot_impl.OPS
CASE = CASES["one_text_row"]


def call(work, dtype, device):
    return getattr(OPS, work.op)(*arguments(work, CASE, dtype, device))


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_float64_is_refused(work, device):
    with pytest.raises(NotImplementedError, match=rf"no kernel for torch.float64 on device {device}"):
        call(work, torch.float64, device)


@pytest.mark.skipif(not INTERPRETED, reason="compiled kernels do compute bfloat16")
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_bfloat16_in_the_interpreter_is_refused(work):
    with pytest.raises(NotImplementedError, match=r"torch.bfloat16 on device cpu in Triton's interpreter.*convert"):
        call(work, torch.bfloat16, "cpu")


def test_a_cpu_without_the_interpreter_is_refused():
    code = (
        "import torch, mot_impl\n"
        "from benchmarks.harness.inputs import CASES, WORK, arguments\n"
        "for work in WORK:\n"
        "    try: getattr(mot_impl.OPS, work.op)(*arguments(work, CASES['one_text_row'], torch.float32, 'cpu'))\n"
        "    except NotImplementedError as error: print(error)\n"
        "    else: raise SystemExit(f'{work.name} computed something')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    lines = set(done.stdout.splitlines())
    assert (done.returncode, lines) == (
        0,
        {
            "mot_impl has no kernel for torch.float32 on device cpu; move to a CUDA GPU, or set TRITON_INTERPRET=1 "
            "before importing mot_impl"
        },
    ), done.stderr


def test_a_gradient_is_refused(device):
    x = torch.ones(1, 4, device=device, requires_grad=True)
    experts = Experts(torch.ones(2, 4, 4, device=device))
    with pytest.raises(NotImplementedError, match=r"no backward pass for .*; call it under torch.inference_mode\(\)"):
        OPS.linear(x, experts, Route.all_text(1, device))


def test_a_gradient_of_a_scale_is_refused(device):
    scale = torch.ones(2, 4, device=device, requires_grad=True)
    experts = Experts(torch.ones(2, 4, 4, dtype=torch.int8, device=device), scale=scale)
    with pytest.raises(NotImplementedError, match=r"no backward pass for .*; call it under torch.inference_mode\(\)"):
        OPS.linear(torch.ones(1, 4, device=device), experts, Route.all_text(1, device))


def test_parameters_are_taken_under_inference_mode(device):
    experts = Experts(torch.nn.Parameter(torch.ones(2, 4, 4, device=device)))
    with torch.inference_mode():
        y = OPS.linear(torch.ones(1, 4, device=device), experts, Route.all_text(1, device))
    assert y.tolist() == [[4.0] * 4]


def test_a_transposed_x_is_refused(device):
    x = torch.ones(4, 3, device=device).T
    with pytest.raises(ValueError, match=r"x \(3, 4\) has stride 3 along its last axis .* call x.contiguous\(\)"):
        OPS.linear(x, Experts(torch.ones(2, 4, 4, device=device)), Route.all_text(3, device))


def test_a_transposed_weight_is_refused(device):
    weight = torch.ones(2, 4, 8, device=device).transpose(1, 2)
    with pytest.raises(ValueError, match=r"weight \(2, 8, 4\) has stride 8 along its last axis"):
        OPS.linear(torch.ones(3, 4, device=device), Experts(weight), Route.all_text(3, device))


def test_a_row_too_wide_for_one_program_is_refused(device):
    width = WIDEST + 1
    x, gain = torch.ones(1, width, device=device), torch.ones(2, width, device=device)
    with pytest.raises(NotImplementedError, match=rf"width is {width} but the norm takes at most {WIDEST}"):
        OPS.rms_norm(x, gain, Route.all_text(1, device), 1e-6)


def test_two_rows_too_wide_for_one_program_are_refused(device):
    width = WIDEST // 2 + 1
    x, gain = torch.ones(1, width, device=device), torch.ones(2, width, device=device)
    with pytest.raises(NotImplementedError, match=rf"width is {width} but add_rms_norm takes at most {WIDEST // 2}"):
        OPS.add_rms_norm(x, x, gain, Route.all_text(1, device), 1e-6)


def test_heads_too_many_for_one_program_are_refused(device):
    norm = QKNorm(torch.ones(2, 128, device=device), torch.ones(2, 128, device=device), 256, 1, 1e-6)
    qkv, table = torch.ones(1, norm.qkv_width, device=device), torch.ones(1, 128, device=device)
    with pytest.raises(NotImplementedError, match=rf"257 heads of width 128 are 65536 values .* at most {WIDEST}"):
        OPS.qk_norm_rotary(qkv, norm, Rotary(table, table), Route.all_text(1, device))


def test_a_tile_of_another_kind_is_refused(device):
    x = torch.ones(1, 16, device=device)
    experts, route = Experts(torch.ones(2, 16, 16, device=device)), Route.all_text(1, device)
    tile = Tile(16, 16, 16, 4, 1, kind="sorted")
    with pytest.raises(ValueError, match=r"is of kind 'sorted'; this kernel takes 'gather'"):
        launch_routed(None, x, experts, torch.empty_like(x), route, tile)


HOPPER_TILES_OF_OTHERS = {
    "dense": (hopper_launch.routed, Tile(256, 128, 64, 8, 4, kind="hopper")),
    "fp8": (hopper_launch.routed, Tile(128, 256, 64, 8, 4, kind="hopper")),
    "int8": (hopper_int8_launch.routed, Tile(128, 256, 64, 8, 4, kind="hopper")),
}


@pytest.mark.parametrize("kind", HOPPER_TILES_OF_OTHERS)
def test_a_hopper_kernel_refuses_the_tile_of_another(kind):
    routed, tile = HOPPER_TILES_OF_OTHERS[kind]
    case = CASES["image_then_text"]
    x, experts, route = quantised(arguments(Work("linear", "o"), case, torch.float16, "cpu"), kind)
    with pytest.raises(ValueError, match=f"{tile} is of another kernel; that of {kind} experts takes kind 'hopper'"):
        routed(x, experts, route, tile, gated=False)


def test_a_tile_of_an_unknown_op_is_refused(device):
    with pytest.raises(ValueError, match=r"op 'conv' is not an op of the contract"):
        OPS.describe_tile(Problem("conv", 1, 1, 1, torch.float32, device))


def test_the_door_of_the_contract_comes_first(device):
    with pytest.raises(ValueError, match=r"x has K=5 but weight has K=4"):
        OPS.linear(
            torch.ones(3, 5, device=device), Experts(torch.ones(2, 4, 4, device=device)), Route.all_text(3, device)
        )
