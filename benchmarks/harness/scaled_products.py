"""PyTorch's own fp8 product, `torch._scaled_mm` with a scale per row and per output channel: what fused is measured
against, and, where the sums are those of the tensor cores ("fast"), what it is judged by."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

if typing.TYPE_CHECKING:
    from reference_impl.contract import Experts, QuantisedRows, Route

Sums = typing.Literal["fast", "exact"]

CAPABILITY = (9, 0)
"""From which PyTorch multiplies with a scale per row."""


def can(x: QuantisedRows, experts: Experts) -> bool:
    """Whether PyTorch (2.11) has this product: widths of multiples of 16, bfloat16 results, Hopper or newer."""
    return (
        x.dtype == torch.bfloat16
        and experts.n_in % 16 == 0
        and experts.n_out % 16 == 0
        and x.device.type == "cuda"
        and torch.cuda.get_device_capability(x.device) >= CAPABILITY
    )


def one_expert(x: QuantisedRows, experts: Experts, sums: Sums = "fast", expert: int = 1) -> Tensor:
    """All rows through one expert: x [M, K] -> [M, N] in x.dtype."""
    scale = typing.cast("Tensor", experts.scale)
    return torch._scaled_mm(
        x.values,
        experts.weight[expert].t(),
        scale_a=x.scale[:, None],
        scale_b=scale[expert][None, :],
        bias=None if experts.bias is None else experts.bias[expert],
        out_dtype=x.dtype,
        use_fast_accum=sums == "fast",
    )


def linear(x: QuantisedRows, experts: Experts, route: Route, sums: Sums = "fast") -> Tensor:
    """The routed layer: each expert's rows through its product."""
    from reference_impl.contract import QuantisedRows

    y = torch.empty(x.shape[0], experts.n_out, dtype=x.dtype, device=x.device)
    for expert, rows in enumerate(route.expert_rows):
        if len(rows):
            # fp8 has no index_select: rows are taken as bytes.
            values = x.values.view(torch.uint8)[rows].view(x.values.dtype)
            y[rows] = one_expert(QuantisedRows(values, x.scale[rows], x.dtype), experts, sums, expert)
    return y


def gated_linear(x: QuantisedRows, gate_up: Experts, route: Route, sums: Sums = "fast") -> Tensor:
    """SiLU(gate) * up of that, in float32 from gate and up as PyTorch rounds them."""
    gate, up = linear(x, gate_up, route, sums).float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(x.dtype)


def ordinary(op: str, arguments: tuple[typing.Any, ...], sums: Sums = "fast") -> Callable[..., Tensor] | None:
    """PyTorch's way to compute `op` with these sums, to judge others by; None if it has none, or rows are not fp8."""
    from reference_impl.contract import QuantisedRows

    ways = {"linear": linear, "gated_linear": gated_linear}
    if op not in ways or not isinstance(arguments[0], QuantisedRows) or not can(arguments[0], arguments[1]):
        return None
    return functools.partial(ways[op], sums=sums)
