"""The weights and rows on which the parallel modules are tested, the same in every process."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import reference_impl as ops
from reference_impl.contract import Experts, Kind, QKNorm, Rotary, Route
from reference_impl.quantise import quantise


@dataclass(frozen=True)
class Problem:
    """11 shuffled rows of width 24; 8 query heads on 2 key/value heads of width 6; every layer with a bias."""

    x: Tensor
    route: Route
    table: Rotary
    qkv: Experts
    norm: QKNorm
    o: Experts
    gate_up: Experts
    down: Experts
    inner: int

    @classmethod
    def make(cls) -> "Problem":
        generator = torch.Generator().manual_seed(7)
        m, width, heads, kv_heads, d, inner = 11, 24, 8, 2, 6, 20

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        def experts(n: int, k: int) -> Experts:
            return Experts(draw(2, n, k) / k**0.5, 3 * draw(2, n))

        rows = torch.randperm(m, generator=generator)
        return cls(
            x=draw(m, width),
            route=Route(rows, 4),
            table=Rotary.at(torch.arange(m), d, 1e4),
            qkv=experts((heads + 2 * kv_heads) * d, width),
            norm=QKNorm(1 + draw(2, d) / 8, 1 + draw(2, d) / 8, heads, kv_heads, 1e-6),
            o=experts(width, heads * d),
            gate_up=experts(2 * inner, width),
            down=experts(width, inner),
            inner=inner,
        )

    def quantised(self, kind: Kind, fixed: float | None = None) -> "Problem":
        """The same with quantised layers, whose inputs have this fixed scale."""
        scale = None if fixed is None else torch.tensor([fixed, 2 * fixed])
        qkv, o, gate_up, down = (quantise(one, kind, scale) for one in (self.qkv, self.o, self.gate_up, self.down))
        return replace(self, qkv=qkv, o=o, gate_up=gate_up, down=down)

    def wide(self, width: int) -> Tensor:
        """Rows for a layer behind another one."""
        return torch.randn(len(self.x), width, generator=torch.Generator().manual_seed(width))

    def expected(self) -> dict[str, Tensor]:
        """The half-layers by plain ops on whole weights, the same without the last bias, and those biases."""
        q, k, v = ops.qk_norm_rotary(ops.linear(self.x, self.qkv, self.route), self.norm, self.table, self.route)
        mixed = ops.attention(q, k, v, causal=False).flatten(1)
        gated = ops.gated_linear(self.x, self.gate_up, self.route)
        return {
            "attention": ops.linear(mixed, self.o, self.route),
            "mlp": ops.linear(gated, self.down, self.route),
            "attention_unbiased": ops.linear(mixed, Experts(self.o.weight), self.route),
            "mlp_unbiased": ops.linear(gated, Experts(self.down.weight), self.route),
            "o_bias": bias(self.o),
            "down_bias": bias(self.down),
        }


def bias(experts: Experts) -> Tensor:
    assert experts.bias is not None
    return experts.bias


@dataclass(frozen=True)
class Quantised:
    """A kind of layers, and the fixed scale of their inputs."""

    kind: Kind
    fixed: float | None = None

    @property
    def name(self) -> str:
        return self.kind if self.fixed is None else f"{self.kind}-fixed"


QUANTISED = (Quantised("int8"), Quantised("fp8"), Quantised("fp8", 0.01))
