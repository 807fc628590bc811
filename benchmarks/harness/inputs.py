"""Op cases by name, and the arguments that a case gives to each op.

Everything is drawn on a CPU generator from the case's seed and the tensor's name: a seed means the same numbers on
every device, in every dtype (rounded to it) and in whatever order tensors are drawn.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.harness.shapes import BAGEL, LAYERS, ODD, SHAPES, SMALL, Shape
from reference_impl.contract import Experts, Problem, QKNorm, Rotary, Route

EPS = 1e-6
THETA = 1_000_000.0
"""Of BAGEL's norms and rotary tables."""

CONTEXT = 40
"""Rows of context that attention sees before the sequence."""

Order = Literal["ends", "middle", "shuffled", "image_first"]
Bias = Literal["none", "both", "text", "image", "qkv"]


@dataclass(frozen=True)
class Case:
    """A named input to every op of the contract.

    order     where the text rows lie: at the ends of the sequence, in its middle, shuffled like all the others, or
              behind all image rows ("image_first")
    bias      which expert's layers have one; "qkv" is BAGEL itself: both experts, but only the qkv layer
    equal     both experts have the same weights, so that routing must not show
    padded    x is a view of a larger buffer with an odd row stride, NaN everywhere else
    outliers  one channel of x is 20 times as large, and one row 4 times
    """

    name: str
    shape: Shape
    order: Order = "ends"
    bias: Bias = "both"
    equal: bool = False
    padded: bool = False
    outliers: bool = False
    seed: int = 0


def _small(name: str, m: int, n_text: int, widths: Shape = SMALL, **traits: Any) -> Case:
    return Case(name, widths.rows(m, n_text), **traits)


_SMALL = (
    _small("text_at_ends", 150, 2),
    _small("text_in_middle", 150, 16, order="middle"),
    _small("rows_shuffled", 150, 17, order="shuffled"),
    _small("text_1", 150, 1, order="middle"),
    _small("text_16_image_128", 144, 16),
    _small("text_17_image_129", 146, 17),
    _small("all_text", 66, 66),
    _small("all_image", 150, 0),
    _small("one_text_row", 1, 1),
    _small("one_image_row", 1, 0),
    _small("no_rows", 0, 0),
    _small("image_then_text", 150, 17, order="image_first"),
    _small("equal_experts", 66, 17, order="shuffled", equal=True),
    _small("nan_around_x", 66, 17, order="shuffled", padded=True),
    _small("no_bias", 66, 2, bias="none"),
    _small("text_bias_only", 66, 17, bias="text"),
    _small("image_bias_only", 66, 17, bias="image"),
    _small("outliers", 66, 17, outliers=True),
    _small("odd_widths", 67, 3, ODD, order="shuffled", padded=True),
)
CASES = {case.name: case for case in _SMALL}
"""Small cases: seconds in Triton's interpreter, milliseconds on a GPU."""

_BAGEL = tuple(
    Case(f"bagel_{name}_bias_{bias}", SHAPES[name], bias=bias)
    for name in ("1026", "4098", "8208")
    for bias in ("none", "both")
)
BAGEL_CASES = {case.name: case for case in _BAGEL}
"""BAGEL's own sizes, for a GPU."""


def bagel_case(shape: Shape, seed: int = 0) -> Case:
    """What a benchmark measures: rows sorted into [image | text], and a bias on the qkv layer only, as BAGEL has it.

    Sorted, because an image's rows share one position and see each other: their order is free, and a kernel may use it.
    """
    name = "bagel" if shape.hidden == BAGEL.hidden else "small"
    return Case(name, shape, order="image_first", bias="qkv", seed=seed)


@dataclass(frozen=True)
class Work:
    """One op of the contract with one part of a layer: `part` is a layer's name, or "causal" or "full" attention."""

    op: str
    part: str = ""

    @property
    def name(self) -> str:
        """`linear/qkv`, `rms_norm`."""
        return f"{self.op}/{self.part}" if self.part else self.op


WORK = (
    *(Work("linear", layer) for layer in LAYERS),
    Work("rms_norm"),
    Work("head_rms_norm"),
    Work("add_rms_norm"),
    Work("rotary"),
    Work("qk_norm_rotary"),
    Work("gated_linear"),
    Work("gated_mlp"),
    Work("attention", "full"),
    Work("attention", "causal"),
)
"""Every op of the contract."""


ROWWISE = ("rms_norm", "add_rms_norm", "quantise_rows", "quantised_rms_norm", "quantised_add_rms_norm")
"""Ops that take whole rows, of the hidden width or, with a part, of that layer's input."""


def arguments(work: Work, case: Case, dtype: torch.dtype, device: torch.device | str) -> tuple[Any, ...]:
    """The positional arguments of `work.op` for a case. Raises ValueError for an op that the contract lacks."""
    draw, shape = Draw(case, dtype, torch.device(device)), case.shape
    match work.op:
        case "linear":
            return draw.x(shape.layer(work.part)[1]), draw.experts(work.part), draw.route()
        case "rms_norm":
            return draw.x(shape.hidden), draw.gain("gain", shape.hidden), draw.route(), EPS
        case "add_rms_norm":
            x = draw.x(shape.hidden)
            return x, draw.normal("other", *x.shape), draw.gain("gain", shape.hidden), draw.route(), EPS
        case "quantise_rows":
            return draw.x(_width(work, shape)), draw.route(), None
        case "quantised_rms_norm" | "quantised_add_rms_norm":
            unquantised = Work(work.op.removeprefix("quantised_"))
            return (*arguments(unquantised, case, dtype, device), None)
        case "head_rms_norm":
            return draw.heads(shape.n_heads), draw.gain("gain", shape.head_dim), draw.route(), EPS
        case "rotary":
            return draw.heads(shape.n_heads), draw.table()
        case "qk_norm_rotary":
            return draw.x(shape.qkv_width), draw.qk_norm(), draw.table(), draw.route()
        case "gated_linear":
            return draw.x(shape.hidden), draw.experts("gate_up"), draw.route()
        case "gated_mlp":
            return draw.x(shape.hidden), draw.experts("gate_up"), draw.experts("down"), draw.route()
        case "attention":
            context = (shape.m + CONTEXT, shape.n_kv_heads, shape.head_dim)
            return (
                draw.heads(shape.n_heads),
                draw.normal("k", *context),
                draw.normal("v", *context),
                work.part != "full",
            )
    raise ValueError(f"op {work.op!r} is not one of {', '.join(sorted({one.op for one in WORK}))}")


def quantised(arguments_of_op: tuple[Any, ...], kind: Any) -> tuple[Any, ...]:
    """The same arguments with every Experts in `kind`; of "fp8", the rows in front of them too, as one op's input.

    Rows are quantised by the reference, before anything is measured. Raises ImportError where the packages that are
    measured have no quantised experts.
    """
    if kind == "dense":
        return arguments_of_op
    from reference_impl.quantise import quantise, quantise_rows

    made: list[Any] = [quantise(one, kind) if isinstance(one, Experts) else one for one in arguments_of_op]
    route = next(one for one in made if isinstance(one, Route))
    return (quantise_rows(made[0], route), *made[1:]) if kind == "fp8" else tuple(made)


def problem(
    work: Work,
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device | str,
    image_first: bool = False,
    kind: str = "dense",
) -> Problem:
    """What to ask `MoTOps.describe_tile` about `work`; image_first is the route's, kind that of the experts."""
    n, k = {
        "linear": lambda: shape.layer(work.part),
        **dict.fromkeys(ROWWISE, lambda: (_width(work, shape), _width(work, shape))),
        "qk_norm_rotary": lambda: ((shape.n_heads + shape.n_kv_heads) * shape.head_dim, shape.head_dim),
        "gated_linear": lambda: (shape.intermediate, shape.hidden),
        "gated_mlp": lambda: (shape.intermediate, shape.hidden),
    }.get(work.op, lambda: (shape.n_heads * shape.head_dim, shape.head_dim))()
    # Commits from before there were quantised experts know no kind.
    kinds: dict[str, Any] = {} if kind == "dense" else {"kind": kind}
    return Problem(work.op, shape.m, n, k, dtype, torch.empty(0, device=device).device, image_first, **kinds)


def _width(work: Work, shape: Shape) -> int:
    """Of the rows of a ROWWISE op: those of the model, or those that the layer `part` reads."""
    return shape.layer(work.part)[1] if work.part else shape.hidden


def in_blocks(arguments_of_op: tuple[Any, ...]) -> bool:
    """Whether the route among the arguments of an op has its image rows first."""
    return any(isinstance(one, Route) and one.image_first for one in arguments_of_op)


@dataclass(frozen=True)
class Draw:
    """Draws the tensors of a case in a dtype on a device."""

    case: Case
    dtype: torch.dtype
    device: torch.device

    def normal(self, name: str, *size: int) -> Tensor:
        """Standard normal numbers."""
        return _normal(self.case.seed, name, size).to(self.device).to(self.dtype)

    def x(self, width: int) -> Tensor:
        """[M, width] standard normal, with the case's outliers and padding."""
        case, m = self.case, self.case.shape.m
        x = _normal(case.seed, "x", (m, width))
        if case.outliers:
            x = x.clone()
            x[:, width // 3] *= 20
            x[m // 2] *= 4
        x = x.to(self.device).to(self.dtype)
        if not case.padded:
            return x
        buffer = torch.full((m + 4, width + 5), float("nan"), dtype=self.dtype, device=self.device)
        buffer[1 : m + 1, 3 : width + 3] = x
        return buffer[1 : m + 1, 3 : width + 3]

    def heads(self, n_heads: int) -> Tensor:
        """[M, heads, d] standard normal."""
        d = self.case.shape.head_dim
        return self.x(n_heads * d).view(self.case.shape.m, n_heads, d)

    def experts(self, layer: str) -> Experts:
        """The layer's weights, of variance 1/K, and its biases, of variance 1: as large as what they are added to."""
        n, k = self.case.shape.layer(layer)
        weight = self.normal(f"{layer}.weight", 2, n, k) * k**-0.5
        if self.case.equal:
            weight[1] = weight[0]
        return Experts(weight, self._bias(layer, n))

    def _bias(self, layer: str, n: int) -> Tensor | None:
        kind = self.case.bias
        if kind == "none" or (kind == "qkv" and layer != "qkv"):
            return None
        bias = self.normal(f"{layer}.bias", 2, n)
        if self.case.equal:
            return bias[:1].repeat(2, 1)
        if kind == "text":
            return torch.stack([bias[0], torch.zeros_like(bias[1])])
        if kind == "image":
            return torch.stack([torch.zeros_like(bias[0]), bias[1]])
        return bias

    def gain(self, name: str, width: int) -> Tensor:
        """[2, width] around 1."""
        gain = self.normal(name, 2, width) * 0.2 + 1
        if self.case.equal:
            gain[1] = gain[0]
        return gain

    def qk_norm(self) -> QKNorm:
        """The q and k gains and how a packed row divides."""
        shape = self.case.shape
        q_gain, k_gain = self.gain("q_gain", shape.head_dim), self.gain("k_gain", shape.head_dim)
        return QKNorm(q_gain, k_gain, shape.n_heads, shape.n_kv_heads, EPS)

    def table(self) -> Rotary:
        """Rotary tables of scattered positions, float32 in every dtype."""
        positions = torch.arange(self.case.shape.m, device=self.device) * 7 % 2048
        return Rotary.at(positions, self.case.shape.head_dim, THETA)

    def route(self) -> Route:
        """The case's route: its text rows where `order` puts them."""
        m, n_text = self.case.shape.m, self.case.shape.n_text
        if self.case.order == "image_first":
            return Route.image_then_text(m - n_text, n_text, self.device)
        rows = torch.arange(m)
        if self.case.order == "shuffled":
            rows = torch.randperm(m, generator=_generator(self.case.seed, "rows"))
            return Route(rows.to(self.device), n_text)
        first = m // 3 if self.case.order == "middle" else -(n_text // 2)
        text = torch.arange(first, first + n_text) % max(m, 1)
        is_image = torch.ones(m, dtype=torch.bool)
        is_image[text] = False
        return Route.from_mask(is_image).to(self.device)


def copied(value: Any) -> Any:
    """The same arguments in other memory, strides kept: what keeps a GPU's cache cold."""
    return _mapped(lambda tensor: tensor.clone(memory_format=torch.preserve_format), value)


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor of some arguments, those within a Route, Experts, QKNorm or Rotary too."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(note, value)
    return found


def size_in_bytes(value: Any) -> int:
    """Bytes of all tensors of some arguments."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(value))


def _mapped(function: Any, value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_mapped(function, item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _mapped(function, getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


@functools.lru_cache(maxsize=64)
def _normal(seed: int, name: str, size: tuple[int, ...]) -> Tensor:
    """Kept, because BAGEL's weights take seconds to draw and are the same for every M and dtype. Do not write to it."""
    return torch.randn(size, generator=_generator(seed, name))


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
