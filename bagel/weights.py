"""Reading a published checkpoint: safetensors only, every name and shape checked before anything is loaded."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bagel.config import LanguageConfig
from bagel.layers import MoTLayer
from reference_impl.contract import Experts, QKNorm, require
from reference_impl.parallel import Parallel, cut_heads, cut_inputs, cut_outputs

LLM = "language_model.model."
IMAGE_SUFFIX = "_moe_gen"
"""What upstream appends to a module's name for the image expert's copy."""

Shape = tuple[int, ...]
Told = Callable[[int, int], None]
"""What is told how many bytes of how many have been read."""


class Reading:
    """How far the reading of some files has come."""

    def __init__(self, paths: Sequence[Path] = (), told: Told = lambda done, total: None) -> None:
        self.total, self.done, self._told = sum(path.stat().st_size for path in paths), 0, told

    def add(self, n_bytes: int) -> None:
        """So many bytes more."""
        self.done += n_bytes
        self._told(self.done, self.total)


@dataclass
class TensorFiles:
    """The tensors of one checkpoint part, read one at a time, in one dtype and on one device.

    Use as a context manager: it holds the files open (memory-mapped), so a large model is never in memory twice.
    """

    paths: list[Path]
    dtype: torch.dtype
    device: torch.device
    reading: Reading = field(default_factory=Reading)
    shapes: dict[str, Shape] = field(default_factory=dict)
    _owner: dict[str, Any] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "TensorFiles":
        for path in self.paths:
            try:
                file = self._open.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise ValueError(
                    f"{path} is not a complete safetensors file ({error}); download it again (pickle is never loaded)"
                ) from error
            for name in file.keys():  # noqa: SIM118 - safe_open is not a dict
                require(name not in self._owner, "tensor {} is in more than one file, {} the last", name, path)
                self._owner[name] = file
                self.shapes[name] = tuple(file.get_slice(name).get_shape())
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._owner[name].get_tensor(name)
        moved = tensor.to(self.device, self.dtype)
        self.reading.add(tensor.nbytes)
        return moved

    def stacked(self, names: Sequence[Sequence[str]]) -> Tensor:
        """[experts, rows, ...]: of each expert the named tensors, one behind the other along their first axis.

        Every tensor is copied straight to its place, so nothing is in memory twice but for the one that is copied.
        """
        shapes = [self.shapes[name] for name in names[0]]
        rows = sum(shape[0] for shape in shapes)
        whole = torch.empty(len(names), rows, *shapes[0][1:], dtype=self.dtype, device=self.device)
        for expert, parts in zip(whole, names, strict=True):
            places = expert.split([shape[0] for shape in shapes])
            for place, name in zip(places, parts, strict=True):
                tensor: Tensor = self._owner[name].get_tensor(name)
                place.copy_(tensor)
                self.reading.add(tensor.nbytes)
        return whole

    def check(self, expected: Mapping[str, Shape]) -> None:
        """Raise one ValueError that lists every missing, unexpected and wrongly shaped tensor."""
        missing = sorted(expected.keys() - self.shapes.keys())
        extra = sorted(self.shapes.keys() - expected.keys())
        wrong = [
            f"{name} is {list(self.shapes[name])} but must be {list(shape)}"
            for name, shape in sorted(expected.items())
            if name in self.shapes and self.shapes[name] != shape
        ]
        problems = [
            f"{len(names)} {kind}: {', '.join(names)}"
            for kind, names in (("missing", missing), ("unexpected", extra), ("of a wrong shape", wrong))
            if names
        ]
        require(
            not problems,
            "{} does not match its config files; tensors {}; check the *config.json files beside it",
            ", ".join(str(path) for path in self.paths),
            "; ".join(problems),
        )


def find_files(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """The safetensors file, or its shards, of the first of `stems` that the folder holds.

    Raises FileNotFoundError if there is none, or if an index names a shard that is not there.
    """
    for stem in stems:
        whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return _shards(index)
        if shards := sorted(folder.glob(f"{stem}-*-of-*.safetensors")):
            return shards
    names = " or ".join(f"{stem}.safetensors" for stem in stems)
    raise FileNotFoundError(f"{folder} holds no {names}, whole or sharded; only safetensors is loaded, never pickle")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is not a safetensors index ({error!r}); download it again") from error
    for name in names:
        require(Path(name).name == name, "{} names the shard {}, which is not a plain file name", index, name)
        require(
            (index.parent / name).is_file(),
            "{} names the shard {}, which is not there; download it",
            index,
            name,
            error=FileNotFoundError,
        )
    return [index.parent / name for name in names]


def layer_shapes(config: LanguageConfig) -> dict[str, Shape]:
    """Names, relative to one decoder layer, and shapes of its tensors, both experts."""
    hidden, inner, d = config.hidden, config.intermediate, config.head_dim
    shapes: dict[str, Shape] = {}
    for s in ("", IMAGE_SUFFIX):
        for name, out in (("q", config.heads * d), ("k", config.kv_heads * d), ("v", config.kv_heads * d)):
            shapes[f"self_attn.{name}_proj{s}.weight"] = (out, hidden)
            shapes[f"self_attn.{name}_proj{s}.bias"] = (out,)
        shapes[f"self_attn.o_proj{s}.weight"] = (hidden, config.heads * d)
        shapes[f"self_attn.q_norm{s}.weight"] = (d,)
        shapes[f"self_attn.k_norm{s}.weight"] = (d,)
        shapes[f"mlp{s}.gate_proj.weight"] = (inner, hidden)
        shapes[f"mlp{s}.up_proj.weight"] = (inner, hidden)
        shapes[f"mlp{s}.down_proj.weight"] = (hidden, inner)
        shapes[f"input_layernorm{s}.weight"] = (hidden,)
        shapes[f"post_attention_layernorm{s}.weight"] = (hidden,)
    return shapes


def language_shapes(config: LanguageConfig) -> dict[str, Shape]:
    """Names and shapes of all tensors of the language model."""
    shapes: dict[str, Shape] = {
        f"{LLM}embed_tokens.weight": (config.vocab, config.hidden),
        "language_model.lm_head.weight": (config.vocab, config.hidden),
        f"{LLM}norm.weight": (config.hidden,),
        f"{LLM}norm{IMAGE_SUFFIX}.weight": (config.hidden,),
    }
    for i in range(config.layers):
        shapes |= {f"{LLM}layers.{i}.{name}": shape for name, shape in layer_shapes(config).items()}
    return shapes


def module_shapes(module: nn.Module) -> dict[str, Shape]:
    """Names and shapes of a module's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def fill(module: nn.Module, files: TensorFiles) -> None:
    """Give a module built on the meta device its tensors."""
    module.load_state_dict({name: files[name] for name in module.state_dict()}, assign=True)
    module.requires_grad_(False)


def merge_layer(files: TensorFiles, index: int, config: LanguageConfig, parallel: Parallel) -> MoTLayer:
    """One decoder layer with the experts stacked: q, k, v rows packed into one Experts, gate and up into another; and
    of each, this rank's part.
    """
    prefix = f"{LLM}layers.{index}."

    def packed(names: tuple[str, ...], what: str) -> Tensor:
        return files.stacked([[f"{prefix}{name.format(s)}.{what}" for name in names] for s in ("", IMAGE_SUFFIX)])

    def gain(name: str) -> Tensor:
        return packed((f"{name}{{}}",), "weight")

    qkv_names = ("self_attn.q_proj{}", "self_attn.k_proj{}", "self_attn.v_proj{}")
    qkv, qk_norm = cut_heads(
        Experts(packed(qkv_names, "weight"), packed(qkv_names, "bias")),
        QKNorm(gain("self_attn.q_norm"), gain("self_attn.k_norm"), config.heads, config.kv_heads, config.eps),
        parallel,
    )
    gate_up = Experts(packed(("mlp{}.gate_proj", "mlp{}.up_proj"), "weight"))
    return MoTLayer(
        input_gain=gain("input_layernorm"),
        qkv=qkv,
        qk_norm=qk_norm,
        o=cut_inputs(Experts(packed(("self_attn.o_proj{}",), "weight")), parallel),
        post_gain=gain("post_attention_layernorm"),
        gate_up=cut_outputs(gate_up, (config.intermediate, config.intermediate), parallel),
        down=cut_inputs(Experts(packed(("mlp{}.down_proj",), "weight")), parallel),
        eps=config.eps,
        parallel=parallel,
    )
