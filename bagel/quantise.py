"""Quantising a checkpoint once, tensor by tensor: `motbench quantise`."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from bagel.calibrate import Calibration, Pairs
from bagel.config import BagelConfig
from bagel.experts import Precision, input_scale_name, is_linear, place_of, scale_name
from bagel.streamed import StreamedFile, dtype_name
from bagel.weights import DTYPES, Reading, TensorFiles, Told, find_files, language_shapes
from reference_impl.contract import Kind, require
from reference_impl.quantise import quantise_weight

MANIFEST = "quantisation.json"
"""Beside a quantised checkpoint: what it was made from and how."""


@dataclass(frozen=True)
class Quantised:
    """What was written: so many weights, and the bytes of the model's tensors before and after."""

    weights: int
    bytes_before: int
    bytes_after: int


def quantise_checkpoint(
    folder: Path,
    out: Path,
    kind: Kind,
    told: Told = lambda done, total: None,
    calibration: Calibration | None = None,
) -> Quantised:
    """Write the checkpoint again with the weights of its routed linear layers in `kind`; `told` hears how far it is.

    `X.weight` becomes 8-bit values and gets `X.weight_scale`, a float32 per output channel; with a calibration of the
    same model, which only fp8 takes, also `X.input_scale`, a float32. Every other tensor and file is copied; one tensor
    at a time is in memory. The new folder appears when all of it is there. Raises FileExistsError unless `out` is new
    or empty, ValueError for a checkpoint that is quantised, incomplete, or not finite, OSError.
    """
    require(kind in DTYPES, "cannot quantise to {!r}; use one of {}", kind, ", ".join(DTYPES))
    require(
        calibration is None or kind == "fp8",
        "kind is {} but there is a calibration; only fp8 layers have scales of their input",
        kind,
    )
    language = BagelConfig.read(folder).language
    sources = find_files(folder, ("ema", "model"))
    check_target(folder, out)
    scales = None if calibration is None else calibration.scales
    reading = Reading(sources, told)
    with TensorFiles(sources, torch.float32, torch.device("cpu"), reading) as files:
        stored = Precision.of(files, language).stored
        require(stored == "dense", "{} is quantised to {} already; give the original checkpoint", folder, stored)
        wanted = language_shapes(language)
        files.check(wanted | {name: shape for name, shape in files.shapes.items() if name not in wanted})
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            written = {path.name: _write(files, path, partial / path.name, kind, scales) for path in sources}
            _copy_others(folder, partial, {path.name for path in sources}, written)
            done = Quantised(
                weights=sum(map(is_linear, files.shapes)),
                bytes_before=reading.done,
                bytes_after=sum(size for sizes in written.values() for size in sizes.values()),
            )
            _write_json(partial / MANIFEST, _manifest(kind, sources, done, calibration))
            partial.chmod(0o777 & ~_umask())
            partial.replace(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return done


def check_target(folder: Path, out: Path) -> None:
    """Refuse a folder that could not be written in the end. Raises FileExistsError or ValueError."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder; give a new or an empty one")
    require(not out.resolve().is_relative_to(folder.resolve()), "{} lies within {}; give another folder", out, folder)
    out.parent.mkdir(parents=True, exist_ok=True)


def _write(files: TensorFiles, source: Path, target: Path, kind: Kind, scales: Pairs | None) -> dict[str, int]:
    """One file of the checkpoint again; the bytes of each of its tensors."""
    names = files.names(source)
    stored: dict[str, tuple[str, tuple[int, ...]]] = {name: (files.dtypes[name], files.shapes[name]) for name in names}
    for name in filter(is_linear, names):
        shape = files.shapes[name]
        stored |= {name: (dtype_name(DTYPES[kind]), shape), scale_name(name): ("F32", shape[:1])}
        if scales is not None:
            stored[input_scale_name(name)] = ("F32", ())
    with StreamedFile(target, stored) as file:
        for name in names:
            tensor = files.raw(name)
            if is_linear(name):
                tensor, scale = quantise_weight(tensor, kind, name)
                file.write(scale_name(name), scale)
                if scales is not None:
                    index, layer, expert = place_of(name)
                    file.write(input_scale_name(name), torch.tensor(scales[index, layer][expert], dtype=torch.float32))
            file.write(name, tensor)
        return file.sizes


def _copy_others(folder: Path, target: Path, sources: set[str], written: dict[str, dict[str, int]]) -> None:
    """Everything else that lies in the folder, and a new index if the checkpoint has one."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in sources and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)
    index = {tensor: name for name, sizes in written.items() for tensor in sizes}
    for path in target.glob("*.safetensors.index.json"):
        if sources.issuperset(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()):
            total = sum(size for sizes in written.values() for size in sizes.values())
            _write_json(path, {"metadata": {"total_size": total}, "weight_map": index})


def _manifest(kind: Kind, sources: list[Path], done: Quantised, calibration: Calibration | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "scales": "one float32 per output channel: its largest magnitude / 448 (fp8) or / 127 (int8)",
        "weights": done.weights,
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
        "sources": {path.name: _sha256(path) for path in sources},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
        },
    } | ({} if calibration is None else {"calibration": calibration.record()})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
