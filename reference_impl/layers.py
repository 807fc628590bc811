"""The layers of a MoT model as modules, over any implementation's ops and for any number of ranks.

Each is built from whole weights, dense or quantised, and keeps its rank's part of them (reference_impl.parallel). A
call of a linear one returns (y, bias): the bias that `skip_bias_add` left to the caller, [2, N] text first, or None.
Inference only.
"""

from dataclasses import replace

from torch import Tensor, nn

from reference_impl.contract import Experts, MoTOps, QKNorm, Route, Rows
from reference_impl.parallel import ALONE, Parallel, cut_heads, cut_inputs, cut_outputs


class MoTRMSNorm(nn.Module):
    """RMSNorm with a gain per expert, gain [2, K]. Every rank normalises whole rows, so nothing is cut."""

    def __init__(self, ops: MoTOps, gain: Tensor, eps: float) -> None:
        super().__init__()
        self.ops, self.eps = ops, eps
        self.gain = nn.Parameter(gain, requires_grad=False)

    def forward(self, x: Tensor, route: Route) -> Tensor:
        """x [M, K] -> [M, K]."""
        return self.ops.rms_norm(x, self.gain, route, self.eps)


class _MoTLinear(nn.Module):
    """A routed linear layer with this rank's part of the weights, whose parameters are the fields of its Experts."""

    def __init__(self, ops: MoTOps, part: Experts, parallel: Parallel, skip_bias_add: bool) -> None:
        super().__init__()
        self.ops, self.parallel, self.skip_bias_add = ops, parallel, skip_bias_add
        self.weight = nn.Parameter(part.weight, requires_grad=False)
        self.bias, self.scale, self.input_scale = map(_fixed, (part.bias, part.scale, part.input_scale))

    @property
    def experts(self) -> Experts:
        """weight [2, n, k], bias and scale [2, n] or None, input_scale [2] or None."""
        return Experts(self.weight, self.bias, self.scale, self.input_scale)

    def forward(self, x: Rows, route: Route) -> tuple[Tensor, Tensor | None]:
        """x [M, k], quantised or not -> (y [M, n], the bias left to the caller)."""
        if self.skip_bias_add:
            return self.ops.linear(x, replace(self.experts, bias=None), route), self.bias
        return self.ops.linear(x, self.experts, route), None


def _fixed(value: Tensor | None) -> nn.Parameter | None:
    return None if value is None else nn.Parameter(value, requires_grad=False)


class MoTQKVParallelLinear(_MoTLinear):
    """q, k and v in one layer, cut by heads.

    qkv [2, (H + 2G) * d, K] as `norm` divides it, whose gains it keeps. With more ranks than key/value heads, ranks
    share a head and each holds it. Raises ValueError if the query heads do not divide among the ranks.
    """

    def __init__(
        self, ops: MoTOps, qkv: Experts, norm: QKNorm, parallel: Parallel = ALONE, skip_bias_add: bool = False
    ) -> None:
        part, own = cut_heads(qkv, norm, parallel)
        super().__init__(ops, part, parallel, skip_bias_add)
        self.q_gain = nn.Parameter(own.q_gain, requires_grad=False)
        self.k_gain = nn.Parameter(own.k_gain, requires_grad=False)
        self.n_heads, self.n_kv_heads, self.eps = own.n_heads, own.n_kv_heads, own.eps

    @property
    def qk_norm(self) -> QKNorm:
        """The norm of q and k, and how this rank's row divides into heads: what `ops.qk_norm_rotary` needs."""
        return QKNorm(self.q_gain, self.k_gain, self.n_heads, self.n_kv_heads, self.eps)


class MoTMergedColumnParallelLinear(_MoTLinear):
    """Layers with one input packed into one weight, each cut by outputs: gate and up, `widths` (I, I).

    merged [2, N, K], N the sum of `widths`. Raises ValueError if one of them does not divide among the ranks.
    """

    def __init__(
        self,
        ops: MoTOps,
        merged: Experts,
        widths: tuple[int, ...],
        parallel: Parallel = ALONE,
        skip_bias_add: bool = False,
    ) -> None:
        super().__init__(ops, cut_outputs(merged, widths, parallel), parallel, skip_bias_add)


class MoTRowParallelLinear(_MoTLinear):
    """o or down, cut by inputs: x is this rank's part [M, K / ranks], y the sum of all ranks' results, on each.

    experts [2, N, K]; the bias is added once, to the sum. fp8 experts without input_scale: each rank's part of a row is
    quantised by its own largest magnitude, so the ranks' sum is as exact as one rank's result, and not its bits. Raises
    ValueError if K does not divide among the ranks.
    """

    def __init__(self, ops: MoTOps, experts: Experts, parallel: Parallel = ALONE, skip_bias_add: bool = False) -> None:
        super().__init__(ops, cut_inputs(experts, parallel), parallel, skip_bias_add)

    def forward(self, x: Rows, route: Route) -> tuple[Tensor, Tensor | None]:
        """x [M, k] -> (y [M, N], the bias left to the caller)."""
        if self.parallel.weight_parts == 1:
            return super().forward(x, route)
        y = self.parallel.sum(self.ops.linear(x, replace(self.experts, bias=None), route))
        if self.skip_bias_add or self.bias is None:
            return y, self.bias
        for bias, rows in zip(self.bias, route.expert_rows, strict=True):
            y[rows] += bias
        return y, None
