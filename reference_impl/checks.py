"""The door of every op: what both implementations refuse, in the same words, before they compute anything."""

import torch
from torch import Tensor

from reference_impl.contract import Experts, KVSlice, QKNorm, QuantisedRows, Rotary, Route, Rows, require


def check_same_place(name: str, tensor: Tensor, x: Rows) -> None:
    """`tensor` must have the dtype and device of `x`."""
    require(
        tensor.dtype == x.dtype,
        "{} is {} but x is {}; convert one of them",
        name,
        tensor.dtype,
        x.dtype,
        error=TypeError,
    )
    require(tensor.device == x.device, "{} is on {} but x is on {}; move one of them", name, tensor.device, x.device)


def check_rows(x: Rows, route: Route) -> None:
    """`x` must have one row per routed row, on the route's device."""
    require(
        x.dtype.is_floating_point and x.dtype.itemsize > 1,
        "x is {} but must be floating point, of 16 bits at least",
        x.dtype,
        error=TypeError,
    )
    require(x.shape[0] == route.n_rows, "x has {} rows but the route has {}; they must agree", x.shape[0], route.n_rows)
    require(
        x.device == route.rows.device,
        "x is on {} but the route is on {}; use route.to(x.device)",
        x.device,
        route.rows.device,
    )


def check_linear(x: Rows, experts: Experts, route: Route) -> None:
    """The door of `linear` and `gated_linear`."""
    require(len(x.shape) == 2, "x has shape {} but must be [M, K]", tuple(x.shape))
    check_rows(x, route)
    require(
        x.shape[1] == experts.n_in,
        "x has K={} but weight has K={}; weight must be [2, N, K]",
        x.shape[1],
        experts.n_in,
    )
    if experts.kind == "dense":
        check_unquantised(x, experts)
        check_same_place("weight", experts.weight, x)
        return
    if experts.kind == "int8":
        check_unquantised(x, experts)
    require(
        experts.weight.device == x.device,
        "weight is on {} but x is on {}; move one of them",
        experts.weight.device,
        x.device,
    )
    if experts.bias is not None:
        check_same_place("bias", experts.bias, x)


def check_unquantised(x: Rows, experts: Experts) -> None:
    """Only fp8 experts take QuantisedRows."""
    require(
        not isinstance(x, QuantisedRows),
        "x is quantised to fp8 but the experts are {}; give them x as it was",
        experts.kind,
        error=TypeError,
    )


def check_scales(experts: Experts, name: str = "weight") -> None:
    """Refuse scales that are not finite and above 0, calling the layer `name`. It looks at values: where weights are
    made or loaded, not in an op. Raises ValueError.
    """
    for what, scale in (("scale", experts.scale), ("input_scale", experts.input_scale)):
        if scale is None:
            continue
        wrong = scale[~((scale > 0) & scale.isfinite())]
        require(
            len(wrong) == 0,
            "{} has {} {} of {} that are not finite and above 0, first {}; quantise it again",
            name,
            len(wrong),
            what,
            scale.numel(),
            float(wrong[0]) if len(wrong) else 0.0,
        )


def check_quantise(x: Tensor, route: Route, input_scale: Tensor | None) -> None:
    """The door of `quantise_rows`."""
    require(x.ndim == 2, "x has shape {} but must be [M, K]", tuple(x.shape))
    check_rows(x, route)
    check_input_scale(input_scale, x)


def check_input_scale(input_scale: Tensor | None, x: Tensor) -> None:
    """A fixed scale of the input, one per expert: [2] float32 on the device of x."""
    if input_scale is None:
        return
    require(input_scale.shape == (2,), "input_scale has shape {} but must be [2]", tuple(input_scale.shape))
    require(
        input_scale.dtype == torch.float32,
        "input_scale is {} but must be torch.float32",
        input_scale.dtype,
        error=TypeError,
    )
    require(
        input_scale.device == x.device,
        "input_scale is on {} but x is on {}; move one of them",
        input_scale.device,
        x.device,
    )


def check_gated_linear(x: Rows, gate_up: Experts, route: Route) -> None:
    """The door of `gated_linear`: an even number of output rows, gate first."""
    check_linear(x, gate_up, route)
    require(
        gate_up.n_out % 2 == 0,
        "gate_up weight has N={} rows; it must be even: gate rows, then as many up rows",
        gate_up.n_out,
    )


def check_gated_mlp(x: Rows, gate_up: Experts, down: Experts, route: Route) -> None:
    """The door of `gated_mlp`."""
    check_gated_linear(x, gate_up, route)
    require(
        down.n_in * 2 == gate_up.n_out,
        "down has K={} but gate_up has N={}; N must be twice K",
        down.n_in,
        gate_up.n_out,
    )


def check_norm(x: Tensor, gain: Tensor, route: Route) -> None:
    """The door of `rms_norm` ([M, K]) and `head_rms_norm` ([M, heads, d])."""
    check_rows(x, route)
    require(gain.shape == (2, x.shape[-1]), "gain has shape {} but must be [2, {}]", tuple(gain.shape), x.shape[-1])
    check_same_place("gain", gain, x)


def check_add_norm(x: Tensor, other: Tensor, gain: Tensor, route: Route) -> None:
    """The door of `add_rms_norm`."""
    require(x.ndim == 2, "x has shape {} but must be [M, K]", tuple(x.shape))
    require(other.shape == x.shape, "other is {} but x {}; they must agree", tuple(other.shape), tuple(x.shape))
    check_norm(x, gain, route)
    check_same_place("other", other, x)


def check_rotary(x: Tensor, table: Rotary) -> None:
    """The door of `rotary`."""
    require(x.ndim == 3, "x has shape {} but must be [M, heads, d]", tuple(x.shape))
    require(
        table.cos.shape == (x.shape[0], x.shape[2]),
        "rotary table is {} but x is {}; the table must be [M, d]",
        tuple(table.cos.shape),
        tuple(x.shape),
    )
    require(x.shape[2] % 2 == 0, "head width {} is odd; rotary needs an even one", x.shape[2])
    require(
        table.cos.device == x.device,
        "rotary table is on {} but x is on {}; move one of them",
        table.cos.device,
        x.device,
    )


def check_qk_norm_rotary(qkv: Tensor, norm: QKNorm, table: Rotary, route: Route, into: KVSlice | None = None) -> None:
    """The door of `qk_norm_rotary`."""
    require(qkv.ndim == 2, "qkv has shape {} but must be [M, (H + 2G) * d]", tuple(qkv.shape))
    check_rows(qkv, route)
    require(
        qkv.shape[1] == norm.qkv_width,
        "qkv has width {} but {} query and {} key/value heads of width {} need {}",
        qkv.shape[1],
        norm.n_heads,
        norm.n_kv_heads,
        norm.head_dim,
        norm.qkv_width,
    )
    require(norm.head_dim % 2 == 0, "head width {} is odd; rotary needs an even one", norm.head_dim)
    check_same_place("q_gain", norm.q_gain, qkv)
    check_same_place("k_gain", norm.k_gain, qkv)
    require(
        table.cos.shape == (qkv.shape[0], norm.head_dim),
        "rotary table is {} but must be [{}, {}]",
        tuple(table.cos.shape),
        qkv.shape[0],
        norm.head_dim,
    )
    require(
        table.cos.device == qkv.device,
        "rotary table is on {} but qkv is on {}; move one of them",
        table.cos.device,
        qkv.device,
    )
    if into is not None:
        _check_into(into, qkv, norm)


def _check_into(into: KVSlice, qkv: Tensor, norm: QKNorm) -> None:
    require(
        into.k.shape[1:] == (norm.n_kv_heads, norm.head_dim),
        "cached k is {} but must be [T, {}, {}]",
        tuple(into.k.shape),
        norm.n_kv_heads,
        norm.head_dim,
    )
    require(into.n_rows == len(qkv), "{} rows of a cache for {} rows of qkv; they must agree", into.n_rows, len(qkv))
    check_same_place("cached k", into.k, qkv)


def check_attention(q: Tensor, k: Tensor, v: Tensor) -> None:
    """The door of `attention`."""
    require(
        q.ndim == k.ndim == v.ndim == 3,
        "q, k, v have {}, {}, {} axes; each must be [rows, heads, d]",
        q.ndim,
        k.ndim,
        v.ndim,
    )
    require(k.shape == v.shape, "k is {} but v is {}; they must agree", tuple(k.shape), tuple(v.shape))
    require(q.shape[2] == k.shape[2], "q has head width {} but k {}; they must agree", q.shape[2], k.shape[2])
    require(
        q.shape[1] % k.shape[1] == 0, "{} query heads do not divide among {} key/value heads", q.shape[1], k.shape[1]
    )
    require(
        q.shape[0] <= k.shape[0], "q has {} rows but k only {}; keys must cover the queries", q.shape[0], k.shape[0]
    )
    check_same_place("k", k, q)
    check_same_place("v", v, q)
