"""Faults in one layer or in one update only: no named input of an op has them, the trace of a golden case must."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bagel.latents import Grid
from bagel.layers import MoTLayer
from bagel.pipeline import BagelPipeline, Guidance
from bagel.probe import Probe
from bagel.transformer import Context
from benchmarks.harness.fault import Fault, Place, Setting
from benchmarks.harness.faults_of_ops import gate_for_up, row_astray, without_bias_tile, without_k_tile
from benchmarks.harness.storing import storing
from reference_impl.contract import IMAGE, TEXT, Experts, QKNorm, Rotary, Route

Velocity = Callable[[int, Tensor, Tensor], Tensor]


def _layer_fault(name: str, what: str, change: Callable[[MoTLayer, Place], MoTLayer]) -> Fault:
    """A fault of what one layer computes with; which layer, the place says."""

    def inject(setting: Setting, place: Place) -> Setting:
        layers = list(setting.layers)
        index = place.of(len(layers), "layer")
        layers[index] = change(layers[index], place)
        return setting.with_transformer(layers=tuple(layers))

    return Fault(name, what, "implementation", "fp32 trace", inject)


def _astray_in_a_layer(setting: Setting, place: Place) -> Setting:
    """One row of one layer's qkv goes to the wrong expert."""
    ops, layer = setting.ops, setting.layers[place.of(len(setting.layers), "layer")]
    astray = row_astray(ops.linear, place)

    def linear(x: Tensor, experts: Experts, route: Route) -> Tensor:
        return (astray if experts is layer.qkv else ops.linear)(x, experts, route)

    return setting.with_transformer(ops=dataclasses.replace(ops, linear=linear))


def _turned_in_a_layer(setting: Setting, place: Place) -> Setting:
    """One row of one layer keeps its query unturned."""
    ops, layer = setting.ops, setting.layers[place.of(len(setting.layers), "layer")]

    def qk_norm_rotary(qkv: Tensor, norm: QKNorm, table: Rotary, route: Route) -> tuple[Tensor, Tensor, Tensor]:
        if norm is layer.qk_norm and len(qkv):
            cos, sin = table.cos.clone(), table.sin.clone()
            row = place.of(len(qkv))
            cos[row], sin[row] = 1, 0
            table = Rotary(cos, sin)
        return ops.qk_norm_rotary(qkv, norm, table, route)

    return setting.with_transformer(ops=dataclasses.replace(ops, qk_norm_rotary=storing(qk_norm_rotary)))


def scaled(experts: Experts, expert: int, factor: float) -> Experts:
    """One expert's weight times a factor."""
    weight = experts.weight.clone()
    weight[expert] *= factor
    return Experts(weight, experts.bias)


@dataclass(frozen=True, kw_only=True)
class AtUpdate(BagelPipeline):
    """`other` computes the velocity of one update."""

    other: BagelPipeline
    update: int

    def _velocity(self, contexts: dict[str, Context], grid: Grid, guidance: Guidance, probe: Probe) -> Velocity:
        own, theirs = (one(contexts, grid, guidance, probe) for one in (super()._velocity, self.other._velocity))
        return lambda step, t, x: (theirs if step == self.update else own)(step, t, x)


def like(kind: type[BagelPipeline], pipeline: BagelPipeline, **extra: typing.Any) -> typing.Any:
    """The same pipeline as another kind, with that kind's own fields."""
    return kind(**{field.name: getattr(pipeline, field.name) for field in dataclasses.fields(BagelPipeline)}, **extra)


def _slipped(expert: int) -> Callable[[Setting, Place], Setting]:
    """One expert of one layer a thousandth too large in one update."""

    def inject(setting: Setting, place: Place) -> Setting:
        layers = list(setting.layers)
        index = place.of(len(layers), "layer")
        layers[index] = dataclasses.replace(layers[index], qkv=scaled(layers[index].qkv, expert, 1.001))
        other = setting.with_transformer(layers=tuple(layers)).pipeline
        update = place.of(setting.request.steps - 1, "update")
        return dataclasses.replace(setting, pipeline=like(AtUpdate, setting.pipeline, other=other, update=update))

    return inject


def _of_qkv(change: Callable[[Experts, Place], Experts]) -> Callable[[MoTLayer, Place], MoTLayer]:
    return lambda layer, place: dataclasses.replace(layer, qkv=change(layer.qkv, place))


def _stale(layer: MoTLayer, _: Place) -> MoTLayer:
    return dataclasses.replace(layer, o=scaled(layer.o, TEXT, 0.999))


def _gains_swapped(layer: MoTLayer, _: Place) -> MoTLayer:
    norm = layer.qk_norm
    return dataclasses.replace(layer, qk_norm=dataclasses.replace(norm, q_gain=norm.q_gain.flip(0)))


def _head_dropped(layer: MoTLayer, place: Place) -> MoTLayer:
    """One head's columns of o are 0 for one expert."""
    weight, width = layer.o.weight.clone(), layer.qk_norm.head_dim
    head = place.of(weight.shape[2] // width, "head")
    weight[place.expert, :, head * width : (head + 1) * width] = 0
    return dataclasses.replace(layer, o=Experts(weight, layer.o.bias))


def _gate_for_up(layer: MoTLayer, place: Place) -> MoTLayer:
    return dataclasses.replace(layer, gate_up=gate_for_up(layer.gate_up, place))


def _lax_eps(setting: Setting, _: Place) -> Setting:
    """In the first layer: behind it rows may be so long that no eps counts."""
    first, *rest = setting.layers
    return setting.with_transformer(layers=(dataclasses.replace(first, eps=10 * first.eps), *rest))


LAYER_FAULTS = (
    Fault(
        "token to the wrong expert in one layer",
        "one row of its qkv",
        "implementation",
        "fp32 trace",
        _astray_in_a_layer,
    ),
    Fault("rotary left out in one layer", "of one row", "implementation", "fp32 trace", _turned_in_a_layer),
    _layer_fault("dropped bias in one layer", "16 outputs of one expert's qkv", _of_qkv(without_bias_tile)),
    _layer_fault("dropped K tile in one layer", "16 of K for 16 outputs of one expert", _of_qkv(without_k_tile)),
    _layer_fault("stale text expert", "o of one layer 0.1 % too small", _stale),
    _layer_fault("gate and up swapped in one layer", "16 columns of one expert", _gate_for_up),
    _layer_fault("head dropped in one layer", "one expert's o leaves one head out", _head_dropped),
    _layer_fault("head gains of the other expert", "of one layer's queries", _gains_swapped),
    Fault(
        "eps 1e-5 for 1e-6 in one layer",
        "the first one's two RMSNorms",
        "implementation",
        "fp32 trace",
        _lax_eps,
        placed=False,
    ),
    Fault(
        "image expert slips in one update",
        "one layer's qkv 0.1 % too large",
        "implementation",
        "fp32 trace",
        _slipped(IMAGE),
    ),
    Fault(
        "text expert slips in one update",
        "one layer's qkv 0.1 % too large",
        "implementation",
        "fp32 trace",
        _slipped(TEXT),
    ),
)
