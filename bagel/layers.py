"""One decoder layer, arranged from the ops of an implementation."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bagel.parallel import Share
from bagel.probe import Probe
from reference_impl.contract import Experts, Kind, KVSlice, MoTOps, QKNorm, Rotary, Route, Rows
from reference_impl.parallel import ALONE, Parallel
from reference_impl.quantise import quantise

Show = Callable[[str, Rows], None]
"""What a layer shows its tensors to, by the name of the op: a Probe, or several."""


@dataclass(frozen=True)
class MoTLayer:
    """The weights of one layer, both experts stacked, text first.

    input_gain, post_gain  [2, H] gains of the two RMSNorms; eps is added to their mean square
    qkv                    [2, (heads + 2 kv_heads) * d, H] with bias
    o                      [2, H, heads * d]
    gate_up                [2, 2I, H], gate rows first
    down                   [2, H, I]
    parallel               the ranks that hold the other parts of the weights, if they are cut
    """

    input_gain: Tensor
    qkv: Experts
    qk_norm: QKNorm
    o: Experts
    post_gain: Tensor
    gate_up: Experts
    down: Experts
    eps: float
    parallel: Parallel = ALONE

    def quantised(self, kind: Kind) -> "MoTLayer":
        """The same with dense linear layers in "fp8" or "int8". Raises TypeError if they are quantised already."""
        qkv, o, gate_up, down = (quantise(one, kind) for one in (self.qkv, self.o, self.gate_up, self.down))
        return replace(self, qkv=qkv, o=o, gate_up=gate_up, down=down)


@dataclass(frozen=True)
class Block:
    """What a pass adds to a context, apart from its values: M rows that attend to the context and to each other.

    route    which expert owns each row
    rotary   tables of the rows' positions, [M, d]
    causal   a row sees only earlier rows of the block (text); otherwise all rows (images)
    advance  by how much the block moves the position of what follows: M for text, 1 for an image
    share    which of its rows this rank computes; None for all of them
    """

    route: Route
    rotary: Rotary
    causal: bool
    advance: int
    share: Share | None = None

    @property
    def own(self) -> "Block":
        """The block of this rank's rows."""
        return self if self.share is None else replace(self, route=self.share.route, rotary=self.share.rotary)

    def joined(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all rows, of which these are this rank's."""
        if self.share is None:
            return k, v
        k, v = self.share.join(torch.stack((k, v), dim=1)).unbind(1)
        return k, v


@dataclass(frozen=True)
class KV:
    """One layer's keys (normed and rotated) and values of everything seen so far, [T, kv_heads, d] each."""

    k: Tensor
    v: Tensor

    def extended(self, k: Tensor, v: Tensor) -> "KV":
        """The rows of this cache, then the new ones."""
        return KV(torch.cat([self.k, k]), torch.cat([self.v, v]))


def decoder_layer(ops: MoTOps, layer: MoTLayer, x: Tensor, block: Block, past: KV, probe: Probe) -> tuple[Tensor, KV]:
    """x + attention(norm(x)), then x + mlp(norm(x)): x [M, H] -> [M, H], and the cache with the block's rows added.

    Source: BAGEL's Qwen2MoTDecoderLayer.
    """
    x, qkv = packed(ops, layer, x, block.route, probe)
    q, k, v = heads(ops, layer, qkv, block, probe)
    seen = past.extended(*block.joined(k, v))
    probe("k", seen.k)
    probe("v", seen.v)
    mixed = ops.attention(q, seen.k, seen.v, block.causal)
    x, added = finished(ops, layer, x, mixed, block.route, probe)
    x = x + added
    probe("out", x)
    return x, seen


def packed(
    ops: MoTOps, layer: MoTLayer, x: Tensor, route: Route, show: Show, added: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The layer up to its heads: x [M, H] -> x, and each row's q, k and v, [M, (heads + 2 kv_heads) * d].

    added [M, H]: what the layer before adds to x, so that one launch adds and norms.
    """
    x, normed = _normed(ops, x, added, layer.input_gain, route, layer.eps, layer.qkv)
    show("in", x)
    show("input_norm", normed)
    qkv = ops.linear(normed, layer.qkv, route)
    show("qkv", qkv)
    return x, qkv


def heads(
    ops: MoTOps, layer: MoTLayer, qkv: Tensor, block: Block, show: Show, into: KVSlice | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """q [M, heads, d], k and v [M, kv_heads, d], normed and rotated; k and v stored in `into`, if there is one."""
    given = (qkv, layer.qk_norm, block.rotary, block.route)
    q, k, v = ops.qk_norm_rotary(*given) if into is None else ops.qk_norm_rotary(*given, into)
    show("q", q)
    return q, k, v


def finished(ops: MoTOps, layer: MoTLayer, x: Tensor, mixed: Tensor, route: Route, show: Show) -> tuple[Tensor, Tensor]:
    """The layer from attention on: x [M, H] as it came in and mixed [M, heads, d] -> what attention made of x, and what
    the MLP adds, [M, H] each: their sum is the layer's output.
    """
    show("attention", mixed)
    projected = layer.parallel.sum(ops.linear(mixed.flatten(1), layer.o, route))
    show("o", projected)
    x, normed = _normed(ops, x, projected, layer.post_gain, route, layer.eps, layer.gate_up)
    show("middle", x)
    show("post_norm", normed)
    gated = layer.parallel.sum(ops.gated_mlp(normed, layer.gate_up, layer.down, route))
    show("mlp", gated)
    return x, gated


def _normed(
    ops: MoTOps, x: Tensor, added: Tensor | None, gain: Tensor, route: Route, eps: float, experts: Experts
) -> tuple[Tensor, Rows]:
    """x, or x + added, and its norm as `experts` take it: fp8 ones quantised, in the same launch."""
    if experts.kind == "fp8":
        if added is None:
            return x, ops.offered("quantised_rms_norm")(x, gain, route, eps, experts.input_scale)
        total, rows = ops.offered("quantised_add_rms_norm")(x, added, gain, route, eps, experts.input_scale)
        return total, rows
    if added is None:
        return x, ops.rms_norm(x, gain, route, eps)
    return ops.add_rms_norm(x, added, gain, route, eps)
