"""Reading a published checkpoint: safetensors only, every name and shape checked before anything is loaded."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bagel.config import LanguageConfig
from reference_impl.contract import FP8, Kind, require
from reference_impl.quantise import quantise_weight

LLM = "language_model.model."
IMAGE_SUFFIX = "_moe_gen"
"""What upstream appends to a module's name for the image expert's copy."""

DTYPES: Mapping[Kind, torch.dtype] = {"fp8": FP8, "int8": torch.int8}
"""In which quantised weights are stored."""

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

    shapes, dtypes  of each tensor by name, as they are stored; a dtype by its safetensors name, "BF16"

    Use as a context manager: it holds the files open (memory-mapped), so a large model is never in memory twice.
    """

    paths: list[Path]
    dtype: torch.dtype
    device: torch.device
    reading: Reading = field(default_factory=Reading)
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    _owner: dict[str, Any] = field(default_factory=dict)
    _files: dict[Path, Any] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "TensorFiles":
        for path in self.paths:
            try:
                file = self._open.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise ValueError(
                    f"{path} is not a complete safetensors file ({error}); download it again (pickle is never loaded)"
                ) from error
            self._files[path] = file
            for name in file.keys():  # noqa: SIM118 - safe_open is not a dict
                require(name not in self._owner, "tensor {} is in more than one file, {} the last", name, path)
                self._owner[name] = file
                stored = file.get_slice(name)
                self.shapes[name], self.dtypes[name] = tuple(stored.get_shape()), stored.get_dtype()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def names(self, path: Path) -> list[str]:
        """The tensors of one of the files."""
        return [name for name, file in self._owner.items() if file is self._files[path]]

    def raw(self, name: str) -> Tensor:
        """The tensor as it is stored, in the memory of the file."""
        tensor: Tensor = self._owner[name].get_tensor(name)
        self.reading.add(tensor.nbytes)
        return tensor

    def __getitem__(self, name: str) -> Tensor:
        return self.raw(name).to(self.device, self.dtype)

    def stacked(self, names: Sequence[Sequence[str]], dtype: torch.dtype | None = None) -> Tensor:
        """[experts, rows, ...]: of each expert the named tensors, one behind the other along their first axis.

        dtype: instead of the files'. Every tensor is copied straight to its place, so nothing is in memory twice but
        for the one that is copied.
        """
        whole = self._empty(names, self.shapes[names[0][0]][1:], dtype or self.dtype)
        for name, place in self._places(names, whole):
            place.copy_(self.raw(name))
        return whole

    def quantised(self, names: Sequence[Sequence[str]], kind: Kind) -> tuple[Tensor, Tensor]:
        """The same of weights, quantised one by one: values [experts, N, K] and scales [experts, N]."""
        values = self._empty(names, self.shapes[names[0][0]][1:], DTYPES[kind])
        scales = self._empty(names, (), torch.float32)
        together = zip(self._places(names, values), self._places(names, scales), strict=True)
        for (name, place), (_, scale) in together:
            given = quantise_weight(self.raw(name).to(self.device), kind, name)
            place.copy_(given[0])
            scale.copy_(given[1])
        return values, scales

    def _empty(self, names: Sequence[Sequence[str]], shape: Shape, dtype: torch.dtype) -> Tensor:
        rows = sum(self.shapes[name][0] for name in names[0])
        return torch.empty(len(names), rows, *shape, dtype=dtype, device=self.device)

    def _places(self, names: Sequence[Sequence[str]], whole: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each tensor's name, and its rows of `whole`."""
        for expert, parts in zip(whole, names, strict=True):
            yield from zip(parts, expert.split([self.shapes[name][0] for name in parts]), strict=True)

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
