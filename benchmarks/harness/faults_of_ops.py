"""Faults of an op that are there at every call: op parity asks every op about named inputs, and must see them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness.fault import Fault, Place, Setting
from benchmarks.harness.inputs import THETA
from benchmarks.harness.storing import storing
from reference_impl.contract import Experts, MoTOps, QKNorm, Rotary, Route

Broken = Callable[[MoTOps, Place], dict[str, Callable[..., typing.Any]]]
"""The ops that are replaced, by name, of an implementation."""


def _op_fault(name: str, what: str, broken: Broken, placed: bool = True) -> Fault:
    def inject(setting: Setting, place: Place) -> Setting:
        ops = dataclasses.replace(setting.ops, name=name, **broken(setting.ops, place))
        return setting.with_transformer(ops=ops)

    return Fault(name, what, "implementation", "op parity", inject, placed=placed)


def other_expert(route: Route, row: int) -> Route:
    """The route of this row alone through the expert that does not own it."""
    is_text = bool((route.text_rows == row).any())
    return Route.image_then_text(int(is_text), int(not is_text), route.rows.device)


def row_astray(op: Callable[..., Tensor], place: Place) -> Callable[..., Tensor]:
    """An op (x [M, ...], weights, route, ...) that sends one row to the expert that does not own it."""

    def astray(x: Tensor, weights: typing.Any, route: Route, *rest: typing.Any) -> Tensor:
        y = op(x, weights, route, *rest)
        if len(x) == 0:
            return y
        row = place.of(len(x))
        y = y.clone()
        y[row] = op(x[row : row + 1], weights, other_expert(route, row), *rest)[0]
        return y

    return astray


def without_k_tile(experts: Experts, place: Place) -> Experts:
    """One expert's weight with zeros in one tile of K, for one tile of outputs."""
    weight = experts.weight.clone()
    weight[place.expert, place.tile(experts.n_out), place.tile(experts.n_in, "k")] = 0
    return Experts(weight, experts.bias)


def without_bias_tile(experts: Experts, place: Place) -> Experts:
    """One expert's bias with zeros for one tile of outputs."""
    if experts.bias is None:
        return experts
    bias = experts.bias.clone()
    bias[place.expert, place.tile(experts.n_out)] = 0
    return Experts(experts.weight, bias)


def gate_for_up(experts: Experts, place: Place) -> Experts:
    """gate_up [2, 2I, K] with one tile of gate and up exchanged, for one expert."""
    weight, half = experts.weight.clone(), experts.n_out // 2
    gate = place.tile(half)
    up = slice(gate.start + half, gate.stop + half)
    weight[place.expert, gate] = experts.weight[place.expert, up]
    weight[place.expert, up] = experts.weight[place.expert, gate]
    return Experts(weight, experts.bias)


def _linear(change: Callable[[Experts, Place], Experts]) -> Broken:
    return lambda base, place: {"linear": lambda x, experts, route: base.linear(x, change(experts, place), route)}


def _token_astray(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    return {"linear": row_astray(base.linear, place)}


def _norms(norm: Callable[..., Tensor]) -> dict[str, Callable[..., typing.Any]]:
    """rms_norm, and the same after a sum."""
    return {"rms_norm": norm, "add_rms_norm": lambda x, other, *rest: (x + other, norm(x + other, *rest))}


def _norm_astray(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    return _norms(row_astray(base.rms_norm, place))


def _lax_eps(base: MoTOps, _: Place) -> dict[str, Callable[..., typing.Any]]:
    return _norms(lambda x, gain, route, eps: base.rms_norm(x, gain, route, 10 * eps))


def _turned(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    def qk_norm_rotary(qkv: Tensor, norm: QKNorm, table: Rotary, route: Route) -> tuple[Tensor, Tensor, Tensor]:
        if len(qkv) == 0:
            return base.qk_norm_rotary(qkv, norm, table, route)
        row, one = place.of(len(qkv)), Rotary.at(torch.ones(1, device=qkv.device), norm.head_dim, THETA)
        cos, sin = table.cos.clone(), table.sin.clone()
        cos[row] = table.cos[row] * one.cos[0] - table.sin[row] * one.sin[0]
        sin[row] = table.sin[row] * one.cos[0] + table.cos[row] * one.sin[0]
        return base.qk_norm_rotary(qkv, norm, Rotary(cos, sin), route)

    return {"qk_norm_rotary": storing(qk_norm_rotary)}


def _head_gain_astray(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    def qk_norm_rotary(qkv: Tensor, norm: QKNorm, table: Rotary, route: Route) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = base.qk_norm_rotary(qkv, norm, table, route)
        if len(qkv) == 0:
            return q, k, v
        row = place.of(len(qkv))
        one = slice(row, row + 1)
        there = Rotary(table.cos[one], table.sin[one])
        q = q.clone()
        q[row] = base.qk_norm_rotary(qkv[one], norm, there, other_expert(route, row))[0][0]
        return q, k, v

    return {"qk_norm_rotary": storing(qk_norm_rotary)}


def _head_scaled(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        q = q.clone()
        q[:, place.of(q.shape[1], "head")] *= 1.01
        return base.attention(q, k, v, causal)

    return {"attention": attention}


def _heads_swapped(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        y = base.attention(q, k, v, causal)
        head = place.of(max(y.shape[1] - 1, 1), "head")
        y = y.clone()
        y[:, head : head + 2] = y[:, head : head + 2].flip(1)
        return y

    return {"attention": attention}


def _key_dropped(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        seen = len(k) - len(q)
        if seen > 0 and len(q):
            kept = torch.ones(len(k), dtype=torch.bool)
            kept[place.of(seen)] = False
            k, v = k[kept.to(k.device)], v[kept.to(v.device)]
        return base.attention(q, k, v, causal)

    return {"attention": attention}


def _looks_ahead(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        y = base.attention(q, k, v, causal)
        if not causal or len(q) < 2:
            return y
        row = place.of(len(q) - 1)
        end = len(k) - len(q) + row + 2
        y = y.clone()
        y[row] = base.attention(q[row : row + 1], k[:end], v[:end], False)[0]
        return y

    return {"attention": attention}


def _gate_for_up(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    return {
        "gated_linear": lambda x, gate_up, route: base.gated_linear(x, gate_for_up(gate_up, place), route),
        "gated_mlp": lambda x, gate_up, down, route: base.gated_mlp(x, gate_for_up(gate_up, place), down, route),
    }


def _row_unwritten(base: MoTOps, place: Place) -> dict[str, Callable[..., typing.Any]]:
    def gated_mlp(x: Tensor, gate_up: Experts, down: Experts, route: Route) -> Tensor:
        y = base.gated_mlp(x, gate_up, down, route).clone()
        if len(y):
            y[place.of(len(y))] = 0
        return y

    return {"gated_mlp": gated_mlp}


OP_FAULTS = (
    _op_fault("token to the wrong expert", "one row of every linear layer", _token_astray),
    _op_fault("norm by the wrong expert", "one row of every RMSNorm", _norm_astray),
    _op_fault("head norm by the wrong expert", "one row's queries", _head_gain_astray),
    _op_fault("dropped bias", "16 outputs of one expert", _linear(without_bias_tile)),
    _op_fault("dropped K tile", "16 of K for 16 outputs of one expert", _linear(without_k_tile)),
    _op_fault("gate and up swapped", "16 columns of one expert", _gate_for_up),
    _op_fault("row not written", "one row of every MLP is 0", _row_unwritten),
    _op_fault("eps 1e-5 for 1e-6", "every RMSNorm", _lax_eps, placed=False),
    _op_fault("rotary off by one", "one row's position", _turned),
    _op_fault("scale slip", "the scores of one head 1 % too large", _head_scaled),
    _op_fault("heads swapped", "two neighbouring heads of attention", _heads_swapped),
    _op_fault("dropped key", "one row of the context", _key_dropped),
    _op_fault("text sees what follows", "one row sees one row too many", _looks_ahead),
)
