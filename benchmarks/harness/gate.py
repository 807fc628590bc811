"""The parity gate: no number is returned for an implementation that disagrees with the reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import reference_impl
from benchmarks.harness.inputs import WORK, Case, Work, arguments, in_blocks, problem, tensors_of
from benchmarks.harness.records import Parity
from reference_impl import contract
from reference_impl.contract import MoTOps, Route
from reference_impl.tolerance import Closeness, judge, truth

SUMS = {"gated_linear": 2, "gated_mlp": 3}
"""Sums behind one value of an op, where it is not one: gate times up is a product of two, and down adds those up."""

UNQUANTISED = {"quantise_rows": "", "quantised_rms_norm": "rms_norm", "quantised_add_rms_norm": "add_rms_norm"}
"""Ops that make QuantisedRows, and the op of what they quantise."""

ROWS: tuple[type, ...] = (Tensor, getattr(contract, "QuantisedRows", Tensor))
"""What an op may return. Commits from before there were quantised experts have tensors only."""


def op_parity(ops: MoTOps, case: Case, dtype: torch.dtype, device: torch.device | str) -> list[Parity]:
    """Every op of the contract on one case: `ops` against the reference, truth in a wider dtype on the same device.

    Raises what an op raises for a device or dtype that it cannot do.
    """
    return [work_parity(ops, work, case, dtype, device) for work in WORK]


def work_parity(ops: MoTOps, work: Work, case: Case, dtype: torch.dtype, device: torch.device | str) -> Parity:
    """One op on one case."""
    inputs = arguments(work, case, dtype, device)
    found = compare(ops, work.op, inputs)
    return Parity(
        op=work.name,
        case=case.name,
        impl=ops.name,
        device=torch.device(device).type,
        dtype=str(dtype).removeprefix("torch."),
        tile=ops.describe_tile(problem(work, case.shape, dtype, device, in_blocks(inputs))),
        worst=found.worst,
        rms=found.rms,
        limit_worst=found.limit_worst,
        limit_rms=found.limit_rms,
        ok=found.ok,
    )


def prove(ops: MoTOps, op: str, inputs: tuple[Any, ...], ordinary: Callable[..., Any] | None = None) -> Closeness:
    """Raise RuntimeError unless `ops` agrees with the reference on `inputs`, the arguments of `op`.

    ordinary: PyTorch's own way with the same arithmetic, where the reference's is more exact than what is judged: the
    sums of fp8 tensor cores. A benchmark calls it in its own process, on what it measures, before it measures.
    """
    found = compare(ops, op, inputs, ordinary)
    if not found.ok:
        raise RuntimeError(
            f"{ops.name} {op} disagrees with the reference on {_described(inputs)}: worst {found.worst:.3g} (limit "
            f"{found.limit_worst:.3g}), RMS {found.rms:.3g} (limit {found.limit_rms:.3g}) of a row's largest value; "
            "nothing is measured until it agrees"
        )
    return found


def compare(ops: MoTOps, op: str, inputs: tuple[Any, ...], ordinary: Callable[..., Any] | None = None) -> Closeness:
    """How close `ops` comes to the truth on `inputs`. Of an op with several results, the one closest to its limit."""
    specification = getattr(reference_impl.OPS, op)
    with torch.no_grad(), _exact_matmul():
        # The judged op runs first: what it left unwritten cannot be a result that the reference has freed.
        actual = _results(getattr(ops, op)(*inputs))
        if wrong := [type(value).__name__ for value in actual if not isinstance(value, ROWS)]:
            raise TypeError(f"{ops.name} {op} returned {', '.join(wrong)} but must return tensors")
        reference = _results((ordinary or specification)(*inputs))
        if op in UNQUANTISED:
            return _compare_quantised(op, inputs, actual, reference)
        exact = _results(truth(specification, *inputs, dtype=reference[0].dtype))
    # No op adds up more terms than its longest row has: attention's weights average. The roundings of several sums
    # behind one value add up, as if one sum had that many squared times the terms.
    terms = max(tensor.shape[-1] for tensor in tensors_of(inputs) if tensor.is_floating_point()) * SUMS.get(op, 1) ** 2
    return _closest([judge(*three, terms=terms) for three in zip(actual, reference, exact, strict=True)])


def _compare_quantised(
    op: str, inputs: tuple[Any, ...], actual: tuple[Any, ...], reference: tuple[Any, ...]
) -> Closeness:
    """The same for an op that makes QuantisedRows: held to what they were quantised from, not to other codes."""
    from reference_impl.tolerance import judge_quantised

    route, scale = next(one for one in inputs if isinstance(one, Route)), inputs[-1]
    scales = None if scale is None else torch.where(_is_text(route), scale[0], scale[1])
    plain = getattr(reference_impl.OPS, UNQUANTISED[op]) if UNQUANTISED[op] else lambda x, _: x
    exact = _results(truth(plain, *inputs[:-1], dtype=reference[-1].dtype))
    sums = [judge(*three) for three in zip(actual[:-1], reference[:-1], exact[:-1], strict=True)]
    return _closest([*sums, judge_quantised(actual[-1], reference[-1], exact[-1], scales)])


def _is_text(route: Route) -> Tensor:
    found = torch.zeros(route.n_rows, dtype=torch.bool, device=route.rows.device)
    found[route.text_rows] = True
    return found


def _closest(found: list[Closeness]) -> Closeness:
    """The one that comes closest to its limit, or is over it."""
    return max(found, key=lambda one: (not one.ok, _share(one.worst, one.limit_worst), _share(one.rms, one.limit_rms)))


def _results(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _share(error: float, limit: float) -> float:
    return error / limit if limit else 0.0


def _described(inputs: tuple[Any, ...]) -> str:
    first: Tensor = inputs[0]
    return f"x {tuple(first.shape)} {str(first.dtype).removeprefix('torch.')} on {first.device}"


@contextlib.contextmanager
def _exact_matmul() -> Iterator[None]:
    """PyTorch at its most exact: IEEE float32 instead of TF32, and half-precision sums kept in float32.

    Its error is the ruler, so it must not be larger than it has to be.
    """
    matmul = torch.backends.cuda.matmul
    before = (
        torch.get_float32_matmul_precision(),
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
    )
    _set_matmul("highest", False, False)
    try:
        yield
    finally:
        _set_matmul(*before)


def _set_matmul(float32: str, bf16_reduced: Any, fp16_reduced: Any) -> None:
    torch.set_float32_matmul_precision(float32)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = bf16_reduced
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = fp16_reduced
