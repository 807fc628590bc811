"""What the kernels read and write: strides, offsets beyond 32 bits, views, and the same result every time."""

import pytest
import torch

import mot_impl
from benchmarks.harness.inputs import CASES, WORK, arguments, copied, tensors_of
from reference_impl.contract import Experts, Rotary, Route

OPS = mot_impl.OPS
DTYPES = [torch.float32, torch.float16]
"""What the interpreter and a GPU both compute; test_gpu.py adds bfloat16."""


def results(work, args) -> tuple[torch.Tensor, ...]:
    found = getattr(OPS, work.op)(*args)
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_two_runs_give_the_same_bits(work, dtype, device):
    args = arguments(work, CASES["rows_shuffled"], dtype, device)
    pairs = zip(results(work, args), results(work, args), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_inputs_are_left_as_they_were(work, device):
    args = arguments(work, CASES["rows_shuffled"], torch.float32, device)
    before = tensors_of(copied(args))
    results(work, args)
    assert all(torch.equal(one, two) for one, two in zip(tensors_of(args), before, strict=True))


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_results_are_contiguous_but_for_the_view_of_v(work, device):
    found = results(work, arguments(work, CASES["nan_around_x"], torch.float32, device))
    assert all(tensor.is_contiguous() for tensor in found[:2])


def test_v_is_a_view_of_qkv(device):
    work = next(work for work in WORK if work.op == "qk_norm_rotary")
    args = arguments(work, CASES["text_1"], torch.float32, device)
    assert results(work, args)[2].untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr()


@pytest.fixture(scope="module")
def far_rows(device) -> torch.Tensor:
    """[3, 64] float16 whose last row lies more than 2^31 elements behind the first; the gap is never touched."""
    x = torch.empty(3, 2**30 + 8, dtype=torch.float16, device=device)[:, :64]
    x.copy_(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).to(x.dtype))
    return x


FAR = {
    "linear": lambda ops, x, route: ops.linear(x, Experts(_weight(x, 32)), route),
    "gated_linear": lambda ops, x, route: ops.gated_linear(x, Experts(_weight(x, 32)), route),
    "rms_norm": lambda ops, x, route: ops.rms_norm(x, torch.ones_like(x[:2]).contiguous(), route, 1e-6),
    "rotary": lambda ops, x, route: ops.rotary(x[:, None], Rotary.at(route.rows, 64, 1e4)),
}


def _weight(x: torch.Tensor, n: int) -> torch.Tensor:
    return torch.randn(2, n, 64, generator=torch.Generator().manual_seed(1)).to(x.device, x.dtype)


@pytest.mark.parametrize("op", FAR.values(), ids=FAR.keys())
def test_rows_beyond_32_bits_are_read(op, far_rows, device):
    route = Route(torch.tensor([2, 0, 1], device=device), 1)
    assert torch.equal(op(OPS, far_rows, route), op(OPS, far_rows.contiguous(), route))
