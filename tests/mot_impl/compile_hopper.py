"""Compile the Hopper kernel for sm_90 without a GPU and print one line of JSON per variant.

A program, not a test: interpreted and compiled kernels cannot share a process. Run it without TRITON_INTERPRET.
"""

import itertools
import json
import re
import subprocess
import tempfile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language import NVMMASharedLayout

from mot_impl.hopper import _hopper_kernel
from mot_impl.tiles import HOPPER_TILE

LAYOUT = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


def signature(dtype: str, gated: bool) -> dict[str, str]:
    """The types of all parameters; constants too."""
    boxes = {
        "x_text": 128,
        "x_image": 128,
        "x_narrow": 16,
        "w_desc": 128 if gated else 256,
        "y_text": 64,
        "y_image": 64,
    }
    types = {name: f"tensordesc<{dtype}[{rows}, 64],{LAYOUT!r}>" for name, rows in boxes.items()}
    types |= dict.fromkeys(("y_narrow", "bias"), f"*{dtype}")
    types |= dict.fromkeys(("head", "wide", "narrow", "flags", "narrow_flags"), "*i32")
    types |= dict.fromkeys(("parts", "narrow_parts"), "*fp32")
    types |= dict.fromkeys(("GATED", "HAS_BIAS", "STAGES"), "constexpr")
    return {name: types.get(name, "i32") for name in _hopper_kernel.arg_names}


def compiled(dtype: str, gated: bool, bias: bool) -> dict[str, Any]:
    """Compile, then ask ptxas for what only the driver would tell otherwise."""
    types = signature(dtype, gated)
    names = list(types)
    constants = {
        (names.index(name),): value
        for name, value in (("GATED", gated), ("HAS_BIAS", bias), ("STAGES", HOPPER_TILE.stages))
    }
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types[name].startswith("*")}
    source = GluonASTSource(_hopper_kernel, types, constants, aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as ptx:
        ptx.write(binary.asm["ptx"])
        ptx.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", ptx.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    if spills is None:
        raise ValueError(f"ptxas said nothing of spills: {said}")
    return {
        "variant": f"{dtype}{' gated' if gated else ''}{' bias' if bias else ''}",
        "spilled_bytes": int(spills[1]) + int(spills[2]),
        "shared_bytes": binary.metadata.shared,
        "wgmma": binary.asm["ptx"].count("wgmma.mma_async"),
        "serialised": "wgmma" in said or "C75" in said,
    }


if __name__ == "__main__":
    for options in itertools.product(("bf16", "fp16"), (False, True), (False, True)):
        print(json.dumps(compiled(*options)), flush=True)
