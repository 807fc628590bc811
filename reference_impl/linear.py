"""The routed linear layer: gather each expert's rows, apply its layer, scatter the results."""

import torch.nn.functional as F
from torch import Tensor

from reference_impl.checks import check_linear
from reference_impl.contract import Experts, Route


def linear(x: Tensor, experts: Experts, route: Route) -> Tensor:
    """y[row] = x[row] @ W[expert of row].T + b[expert of row].

    x [M, K], experts [2, N, K] -> [M, N] in x's dtype. Raises ValueError or TypeError on shapes, dtypes or devices
    that do not agree. Source: BAGEL's Qwen2 MoT layers, `*_proj` and `*_proj_moe_gen`.
    """
    check_linear(x, experts, route)
    y = x.new_empty(route.n_rows, experts.n_out)
    for expert, rows in enumerate(route.expert_rows):
        bias = None if experts.bias is None else experts.bias[expert]
        y[rows] = F.linear(x[rows], experts.weight[expert], bias)
    return y
