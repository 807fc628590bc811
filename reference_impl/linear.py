"""The routed linear layer: gather each expert's rows, apply its layer, scatter the results."""

import torch
import torch.nn.functional as F
from torch import Tensor

from reference_impl.checks import check_linear
from reference_impl.contract import Experts, QuantisedRows, Route, Rows, accumulation_dtype
from reference_impl.quantise import quantise_rows


def linear(x: Rows, experts: Experts, route: Route) -> Tensor:
    """y[row] = x[row] @ W[expert of row].T + b[expert of row].

    x [M, K], experts [2, N, K] -> [M, N] in x's dtype. Quantised experts: products of the 8-bit values are added up in
    float32, the sum is multiplied by the scales of its row and column, the bias added, and all of it rounded once. fp8
    experts quantise an x that is not yet. Raises ValueError or TypeError on shapes, dtypes or devices that do not
    agree. Source: BAGEL's Qwen2 MoT layers, `*_proj` and `*_proj_moe_gen`.
    """
    check_linear(x, experts, route)
    if experts.kind == "fp8" and isinstance(x, Tensor):
        x = quantise_rows(x, route, experts.input_scale)
    values, row_scale = (x.values, x.scale) if isinstance(x, QuantisedRows) else (x, None)
    y = torch.empty(route.n_rows, experts.n_out, dtype=x.dtype, device=x.device)
    for expert, rows in enumerate(route.expert_rows):
        weight, bias = experts.weight[expert], None if experts.bias is None else experts.bias[expert]
        if experts.scale is None:
            y[rows] = F.linear(values[rows], weight, bias)
            continue
        wide = accumulation_dtype(x.dtype)
        total = F.linear(values[rows].to(wide), weight.to(wide))
        if row_scale is not None:
            total *= row_scale[rows, None]
        total *= experts.scale[expert]
        y[rows] = (total if bias is None else total + bias).to(y.dtype)
    return y
