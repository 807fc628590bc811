"""Writing a safetensors file tensor by tensor, when all of them together do not fit in memory.

The format: eight bytes with the length of a JSON header, the header, which names each tensor's dtype, shape and place,
and the values, without gaps. Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls each dtype."""

ITEMSIZE = {name: dtype.itemsize for dtype, name in NAMES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """ "BF16" for torch.bfloat16. Raises NotImplementedError for a dtype that this writer does not know."""
    if dtype not in NAMES:
        raise NotImplementedError(f"cannot write {dtype}; a streamed file holds {', '.join(NAMES.values())}")
    return NAMES[dtype]


class StreamedFile:
    """A file whose tensors are known by name, dtype ("BF16") and shape before the first is written.

    sizes  bytes of each tensor

    Use as a context manager. Every tensor must be written once, in any order: raises ValueError for one that is not as
    announced, or that is missing at the end.
    """

    def __init__(self, path: Path, stored: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        self._path, self._stored, self._missing = path, stored, set(stored)
        for name, (dtype, _) in stored.items():
            if dtype not in ITEMSIZE:
                raise NotImplementedError(f"{name} is {dtype}; a streamed file holds {', '.join(ITEMSIZE)}")
        self.sizes = {name: torch.Size(shape).numel() * ITEMSIZE[dtype] for name, (dtype, shape) in stored.items()}
        self._offsets: dict[str, int] = {}

    def __enter__(self) -> StreamedFile:
        # Wide values first, as the library writes them: then every value stands at a multiple of its size.
        order = sorted(self._stored, key=lambda name: (-ITEMSIZE[self._stored[name][0]], name))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name in order:
            dtype, shape = self._stored[name]
            self._offsets[name] = at
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + self.sizes[name]]}
            at += self.sizes[name]
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = self._path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._start = self._file.tell()
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor, which must be on the CPU."""
        announced = self._stored[name]
        given = (dtype_name(tensor.dtype), tuple(tensor.shape))
        if given != announced or name not in self._missing:
            raise ValueError(f"{name} is {given} but {announced} was announced, once")
        self._missing.discard(name)
        self._file.seek(self._start + self._offsets[name])
        self._file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def __exit__(self, kind: object, *exc: object) -> None:
        self._file.close()
        if kind is None and self._missing:
            raise ValueError(f"{self._path} lacks {', '.join(sorted(self._missing))}; write every tensor")
