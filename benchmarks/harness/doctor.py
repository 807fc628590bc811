"""`motbench doctor`: is this machine fit to run the main job? Each check says what it found and what to do."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from benchmarks.harness import environment
from benchmarks.harness.environment import version_of
from benchmarks.harness.records import Check

CHECKPOINT = Path("tests/data/bagel_oracle/checkpoint")
KNOWN_ASV = {"asv": "0.6.6", "asv_runner": "0.3.2"}
"""The versions whose undocumented behaviour the suite was written and tested against."""

INTERPRETER_NUMPY = (2, 4)
"""Triton 3.6's interpreter breaks with this numpy and later."""

OLDEST_PILLOW = (13,)
"""12.3 and older reduce 128 x 64 to 126 x 56 with other pixels: a golden moved by 1 of 255 on 8.8 % of its bytes."""

GIB = 1024**3
DISK_NEEDED, DISK_WANTED = GIB // 2, 2 * GIB
MODULES = (
    *("asv", "asv_runner", "flip_evaluator", "jinja2", "matplotlib", "PIL", "psutil", "rich", "safetensors", "scipy"),
    *("skimage", "tokenizers", "typer"),
)

NEED_TORCH = ("triton", "numpy", "gpu")
"""Checks that ask torch; without it they have one line to say."""

Status = Literal["ok", "warning", "failed"]


def examine(root: Path) -> list[Check]:
    """All checks of this machine and of the checkout at `root`, in the order in which their failures matter.

    Nothing is changed, but a file is written and deleted in each folder that results go to.
    """
    return [look(name, root) for name in _LOOKS]


def look(name: str, root: Path) -> Check:
    """One check."""
    try:
        if name in NEED_TORCH and _torch_fault():
            return Check(name, "failed", "not looked at, because torch does not import", "see torch")
        return Check(name, *_LOOKS[name](root))
    except (OSError, ValueError, ImportError) as error:
        found = " ".join(str(error).split())
        return Check(name, "failed", found, "repair what the message names and run motbench doctor again")


Found = tuple[Status, str, str]


def _torch_fault() -> str:
    """Why torch does not import, or nothing."""
    try:
        import torch  # noqa: F401
    except Exception as error:  # a torch for another machine raises anything, OSError and AttributeError included
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _python(root: Path) -> Found:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info >= (3, 13):
        return "warning", found, "Python 3.11 and 3.12 are tested; with another, run the tests first"
    return "ok", found, ""


def _torch(root: Path) -> Found:
    cure = "install torch first: pip install torch (README, Installing)"
    if version_of("torch") is None:
        return "failed", "not installed", cure
    if fault := _torch_fault():
        return "failed", f"{version_of('torch')}, but it does not import: {fault}", cure
    import torch

    return "ok", str(torch.__version__), ""


def _triton(root: Path) -> Found:
    version = version_of("triton")
    if version is None or importlib.util.find_spec("triton") is None:
        return "failed", "not installed", "torch first, then only if triton does not import: pip install triton==3.6.0"
    wanted = [
        found.group(1)
        for line in importlib.metadata.requires("torch") or []
        if (found := re.match(r"triton\s*==\s*([\d.]+)", line))
    ]
    if wanted and version not in wanted:
        return "failed", f"{version}, but this torch needs {wanted[0]}", f"pip install triton=={wanted[0]}"
    return "ok", version, ""


def _numpy(root: Path) -> Found:
    import torch

    version = version_of("numpy") or "not installed"
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    interpreted = not torch.cuda.is_available()
    if not numbers or (interpreted and numbers >= INTERPRETER_NUMPY):
        return "failed", version, "Triton's interpreter, used without a GPU, needs numpy < 2.4: pip install 'numpy<2.4'"
    return "ok", version, ""


def _packages(root: Path) -> Found:
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return "failed", f"missing: {', '.join(missing)}", "pip install -r requirements-ci.txt"
    return "ok", f"all of {len(MODULES)} import", ""


def _pillow(root: Path) -> Found:
    version = version_of("pillow") or "not installed"
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:1])
    if numbers < OLDEST_PILLOW:
        return "failed", version, "it reduces pictures to other pixels than the goldens hold: pip install 'pillow>=13'"
    return "ok", version, ""


def _asv(root: Path) -> Found:
    found = {name: version_of(name) for name in KNOWN_ASV}
    text = ", ".join(f"{name} {version or 'not installed'}" for name, version in found.items())
    known = " ".join(f"{name}=={version}" for name, version in KNOWN_ASV.items())
    if None in found.values():
        return "failed", text, f"pip install {known}"
    if found != KNOWN_ASV:
        return "warning", text, f"the suite relies on undocumented behaviour of {known}; run tests/benchmarks first"
    return "ok", text, ""


def _gpu(root: Path) -> Found:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        here = environment.here()
        return "ok", f"{here.gpu}, driver {here.driver}, {free / GIB:.0f} of {total / GIB:.0f} GiB free", ""
    if driver := environment.driver_version():
        cure = f"install a CUDA build of torch that driver {driver} supports, or accept CPU results"
        return "warning", f"driver {driver} but torch {torch.__version__} sees no GPU", cure
    return "ok", "none: the cpu profile, fused kernels in Triton's interpreter", ""


def _git(root: Path) -> Found:
    commit = environment.git(root, "rev-parse", "HEAD")
    changed = environment.changed_files(root)
    if changed:
        found = f"{commit[:8]} and {len(changed)} changed files, {changed[0][3:]} first"
        return "warning", found, "commit or ignore them: HEAD is measured, and a dirty tree is never stored"
    if environment.git(root, "rev-parse", "--is-shallow-repository") == "true":
        return "warning", f"{commit[:8]} of a shallow clone", "git fetch --unshallow, before asking asv for a range"
    return "ok", commit[:8], ""


def _checkpoint(root: Path) -> Found:
    """Read as the model reads it, but for the tensors' values: a cut-off file or a pointer in its place shows."""
    import torch

    from bagel.config import BagelConfig
    from bagel.tokenizer import Tokenizer
    from bagel.weights import TensorFiles, find_files

    folder = root / CHECKPOINT
    try:
        BagelConfig.read(folder)
        Tokenizer.load(folder)
        paths = [*find_files(folder, ("ae",)), *find_files(folder, ("ema", "model"))]
        with TensorFiles(paths, torch.float32, torch.device("cpu")) as files:
            count = len(files.shapes)
    except (OSError, ValueError, NotImplementedError) as error:
        return "failed", " ".join(str(error).split()), f"git checkout -- {CHECKPOINT}"
    return "ok", f"{CHECKPOINT}, {count} tensors", ""


def _disk(root: Path) -> Found:
    free = shutil.disk_usage(root).free
    found = f"{free / GIB:.1f} GiB free"
    if free < DISK_WANTED:
        return "failed" if free < DISK_NEEDED else "warning", found, f"free {DISK_WANTED // GIB} GiB for results"
    return "ok", found, ""


def _writable(root: Path) -> Found:
    for folder in (root / "results", root / ".asv", Path(tempfile.gettempdir())):
        there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            return "failed", f"cannot write to {there}: {error.strerror}", f"chown or chmod {there}"
    return "ok", "results, .asv and the temporary folder", ""


def _path(root: Path) -> Found:
    for variable in ("PYTHONPATH", "TRITON_INTERPRET"):
        if value := os.environ.get(variable):
            return "warning", f"{variable}={value}", f"unset {variable}: each measuring process sets its own"
    return "ok", "PYTHONPATH and TRITON_INTERPRET are not set", ""


_LOOKS: dict[str, Callable[[Path], Found]] = {
    "python": _python,
    "torch": _torch,
    "triton": _triton,
    "numpy": _numpy,
    "packages": _packages,
    "pillow": _pillow,
    "asv": _asv,
    "gpu": _gpu,
    "git": _git,
    "checkpoint": _checkpoint,
    "disk": _disk,
    "write access": _writable,
    "path": _path,
}


def lines(checks: list[Check]) -> Iterator[str]:
    """The checks for a terminal, one line each and the cure of what is not ok below it."""
    for check in checks:
        yield f"{check.status:8} {check.name:13} {check.found}"
        if check.cure:
            yield f"{'':22} -> {check.cure}"
