"""The gated MLP: linear(SiLU(gate) * up)."""

import torch.nn.functional as F
from torch import Tensor

from reference_impl.checks import check_gated_linear, check_gated_mlp
from reference_impl.contract import Experts, Route, Rows, accumulation_dtype
from reference_impl.linear import linear


def gated_linear(x: Rows, gate_up: Experts, route: Route) -> Tensor:
    """SiLU(gate) * up, where [gate | up] = linear(x, gate_up); the product in float32, rounded once.

    x [M, K], gate_up [2, 2I, K] with the gate rows first -> [M, I]. Raises ValueError or TypeError. Source: Qwen2MLP.
    """
    check_gated_linear(x, gate_up, route)
    gate, up = linear(x, gate_up, route).to(accumulation_dtype(x.dtype)).chunk(2, dim=-1)
    return (F.silu(gate) * up).to(x.dtype)


def gated_mlp(x: Rows, gate_up: Experts, down: Experts, route: Route) -> Tensor:
    """linear(gated_linear(x, gate_up), down): x [M, K], gate_up [2, 2I, K], down [2, K, I] -> [M, K].

    Between them rows are rounded to x's dtype and, for an fp8 down, quantised.
    """
    check_gated_mlp(x, gate_up, down, route)
    return linear(gated_linear(x, gate_up, route), down, route)
