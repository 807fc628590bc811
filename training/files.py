"""Files written whole or not at all, and a stage's state in parts small enough to be carried one by one."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

PART_BYTES = 15 * 2**20
"""Largest part of a state."""


def write_bytes(path: Path, data: bytes) -> None:
    """To a temporary file beside it, then by renaming."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def append_json(path: Path, value: Any) -> None:
    """One line of JSON at the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")


def read_lines(path: Path) -> list[Any]:
    """The values of a file that `append_json` wrote; none if there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file. Raises ValueError naming the tensors that hold NaN or infinite values."""
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(
            f"{path.name} is not written: {', '.join(broken[:5])} hold NaN or infinite values; train again"
        )
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(ready, dict(about or {})))


def save_state(folder: Path, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Write a state as state-<step>-<i>-of-<n>.safetensors, then remove the older one.

    progress["step"] names the files; all of `progress` is in each part's metadata.
    """
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        n_bytes = tensor.numel() * tensor.element_size()
        if parts[-1] and size + n_bytes > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += n_bytes
    old = list(folder.glob("state-*.safetensors"))
    about = {"progress": json.dumps(progress)}
    paths = [folder / f"state-{progress['step']:07d}-{i}-of-{len(parts)}.safetensors" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        save_tensors(path, part, about)
    for path in old:
        if path not in paths:
            path.unlink()


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest complete state of a folder, on the CPU; None if it holds none. Raises ValueError if one is damaged."""
    for first in sorted(folder.glob("state-*-0-of-*.safetensors"), reverse=True):
        stem, n_parts = first.stem.split("-0-of-")
        paths = [folder / f"{stem}-{i}-of-{n_parts}.safetensors" for i in range(int(n_parts))]
        if not all(path.is_file() for path in paths):
            continue
        tensors: dict[str, Tensor] = {}
        progress: dict[str, Any] = {}
        for path in paths:
            try:
                with safe_open(path, framework="pt") as file:
                    progress = json.loads(file.metadata()["progress"])
                    tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            except (SafetensorError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is not a training state ({error}); delete it and train again") from error
        return tensors, progress
    return None
