"""The linear layers of a checkpoint: in which kind they are stored and kept, and both experts of a layer as one.

Layers are packed: q, k and v are one layer of the model, gate and up another. What is packed takes the same input, and
so has one fixed scale of it.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, float32, tensor

from bagel.config import LanguageConfig
from bagel.layers import MoTLayer
from bagel.weights import DTYPES, IMAGE_SUFFIX, LLM, Shape, TensorFiles, language_shapes
from reference_impl.checks import check_scales
from reference_impl.contract import Experts, Kind, MoTOps, QKNorm, require
from reference_impl.parallel import Parallel, cut_heads, cut_inputs, cut_outputs

KINDS: dict[str, Kind] = {"F8_E4M3": "fp8", "I8": "int8", "BF16": "dense", "F16": "dense", "F32": "dense"}
"""What the dtype of a stored weight says about the layer, by its safetensors name."""

PACKED = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "o", "gate": "gate_up", "up": "gate_up", "down": "down"}
"""Which layer of `MoTLayer` a published module is a part of."""

_LINEAR = re.compile(rf"{re.escape(LLM)}layers\.(\d+)\.\w+\.([a-z]+)_proj(?:{IMAGE_SUFFIX})?\.weight")


def is_linear(name: str) -> bool:
    """Whether a tensor of the language model is the weight of a routed linear layer: what can be quantised."""
    return _LINEAR.fullmatch(name) is not None


def place_of(weight: str) -> tuple[int, str, int]:
    """Where the model keeps the weight of a linear layer: (index of the decoder layer, layer of it, expert).

    "language_model.model.layers.3.mlp_moe_gen.up_proj.weight" -> (3, "gate_up", 1). Raises ValueError.
    """
    found = _LINEAR.fullmatch(weight)
    require(found is not None, "{} is not the weight of a routed linear layer", weight)
    index, module = typing.cast(re.Match[str], found).groups()
    return int(index), PACKED[module], int(IMAGE_SUFFIX in weight)


def scale_name(weight: str) -> str:
    """`X.weight` -> `X.weight_scale`: a float32 for each of its output channels."""
    return f"{weight}_scale"


def input_scale_name(weight: str) -> str:
    """`X.weight` -> `X.input_scale`: a float32, the fixed scale of its input."""
    return f"{weight.removesuffix('weight')}input_scale"


@dataclass(frozen=True)
class Precision:
    """In which kind the weights of all routed linear layers are stored in the files, and kept in memory.

    fixed  of which layers (index of the decoder layer, layer of it) the files hold fixed scales of the input, fp8 only
    """

    stored: Kind = "dense"
    kept: Kind = "dense"
    fixed: frozenset[tuple[int, str]] = frozenset()

    @classmethod
    def of(cls, files: TensorFiles, config: LanguageConfig, quantise: Kind | None = None) -> Precision:
        """What the files hold, kept as it is, or quantised if it is dense and `quantise` says so.

        Raises ValueError if not all layers of both experts are of one kind, or if they are quantised to another than
        is asked for; NotImplementedError for a dtype that is no kind.
        """
        require(quantise in (None, *DTYPES), "cannot quantise to {!r}; use one of {}", quantise, ", ".join(DTYPES))
        first, stored, fixed = "", None, set()
        for name in filter(is_linear, language_shapes(config)):
            if name not in files.dtypes:
                continue  # `TensorFiles.check` says so, with all others
            kind = _kind(name, files.dtypes[name])
            first, stored = (first, stored) if stored else (name, kind)
            require(
                kind == stored,
                "{} is {} but {} is {}; both experts and all layers must be of one kind: quantise the original again",
                first,
                stored,
                name,
                kind,
            )
            for scale in (scale_name(name), input_scale_name(name)):
                require(
                    files.dtypes.get(scale, "F32") == "F32",
                    "{} is {} but must be F32; quantise the original again",
                    scale,
                    files.dtypes.get(scale),
                )
            if kind == "fp8" and input_scale_name(name) in files.dtypes:
                fixed.add(place_of(name)[:2])
        stored = stored or "dense"
        require(
            stored == "dense" or quantise in (None, stored),
            "the checkpoint is quantised to {} but {} is asked for; give the original, or do not ask",
            stored,
            quantise,
        )
        return cls(stored, quantise or stored, frozenset(fixed))

    def shapes(self, config: LanguageConfig) -> dict[str, Shape]:
        """Names and shapes of the language model's tensors in files of this kind."""
        shapes = language_shapes(config)
        if self.stored == "dense":
            return shapes
        linear = [name for name in shapes if is_linear(name)]
        fixed: dict[str, Shape] = {input_scale_name(n): () for n in linear if place_of(n)[:2] in self.fixed}
        return shapes | {scale_name(n): shapes[n][:1] for n in linear} | fixed

    def check_ops(self, ops: MoTOps) -> None:
        """Refuse ops that cannot compute these layers, before anything is read. Raises NotImplementedError."""
        if self.kept == "fp8":
            for op in ("quantise_rows", "quantised_rms_norm", "quantised_add_rms_norm"):
                ops.offered(op)

    def experts(self, files: TensorFiles, modules: Sequence[Sequence[str]], biased: bool = False) -> Experts:
        """One layer from the named modules of each expert, their outputs one behind the other.

        Raises ValueError for a scale that is not finite and above 0, a weight to quantise that is not finite, or
        modules of one expert whose input has two fixed scales.
        """
        weights = [[f"{module}.weight" for module in expert] for expert in modules]
        bias = files.stacked([[f"{module}.bias" for module in expert] for expert in modules]) if biased else None
        if self.kept == "dense":
            return Experts(files.stacked(weights), bias)
        if self.stored == "dense":
            values, scale = files.quantised(weights, self.kept)
        else:
            values = files.stacked(weights, DTYPES[self.kept])
            scale = files.stacked([[scale_name(weight) for weight in expert] for expert in weights], float32)
        fixed = place_of(weights[0][0])[:2] in self.fixed
        made = Experts(values, bias, scale, _input_scale(files, weights) if fixed else None)
        check_scales(made, " and ".join(expert[0] for expert in weights))
        return made


DENSE = Precision()
"""Stored and kept as they are published."""


def _kind(name: str, dtype: str) -> Kind:
    if dtype not in KINDS:
        raise NotImplementedError(f"{name} is {dtype}; weights of linear layers are {', '.join(KINDS)}")
    return KINDS[dtype]


def _input_scale(files: TensorFiles, weights: Sequence[Sequence[str]]) -> Tensor:
    """[2]: of each expert the scale that its modules agree on."""
    found = []
    for expert in weights:
        each = {input_scale_name(weight): float(files.raw(input_scale_name(weight))) for weight in expert}
        require(
            len(set(map(str, each.values()))) == 1,
            "{}; they take the same input and must agree: quantise the original again",
            " but ".join(f"{name} is {value}" for name, value in each.items()),
        )
        found.append(next(iter(each.values())))
    return tensor(found, dtype=float32, device=files.device)


def merge_layer(
    files: TensorFiles, index: int, config: LanguageConfig, parallel: Parallel, precision: Precision = DENSE
) -> MoTLayer:
    """One decoder layer with the experts stacked: q, k, v rows packed into one Experts, gate and up into another; and
    of each, this rank's part.
    """
    prefix = f"{LLM}layers.{index}."

    def layer(*names: str, biased: bool = False) -> Experts:
        modules = [[prefix + name.format(s) for name in names] for s in ("", IMAGE_SUFFIX)]
        return precision.experts(files, modules, biased)

    def gain(name: str) -> Tensor:
        return files.stacked([[f"{prefix}{name}{s}.weight"] for s in ("", IMAGE_SUFFIX)])

    qkv, qk_norm = cut_heads(
        layer("self_attn.q_proj{}", "self_attn.k_proj{}", "self_attn.v_proj{}", biased=True),
        QKNorm(gain("self_attn.q_norm"), gain("self_attn.k_norm"), config.heads, config.kv_heads, config.eps),
        parallel,
    )
    gate_up = layer("mlp{}.gate_proj", "mlp{}.up_proj")
    return MoTLayer(
        input_gain=gain("input_layernorm"),
        qkv=qkv,
        qk_norm=qk_norm,
        o=cut_inputs(layer("self_attn.o_proj{}"), parallel),
        post_gain=gain("post_attention_layernorm"),
        gate_up=cut_outputs(gate_up, (config.intermediate, config.intermediate), parallel),
        down=cut_inputs(layer("mlp{}.down_proj"), parallel),
        eps=config.eps,
        parallel=parallel,
    )
