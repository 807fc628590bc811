"""The hash of compiled kernels: the same code is the same, however its source is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.compiled import Compiled, code_hash

ROOT = Path(__file__).parents[2]
SOURCE = """
import triton
import triton.language as tl

{comment}
@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs, mask=mask)
    tl.store(y_ptr + offs, x * {factor}, mask=mask)
"""
COMPILE = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from benchmarks.harness import compiled

found = {}
for name in ("one", "moved", "other"):
    heard = compiled.listen()
    kernel = importlib.import_module(name).double
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    triton.compile(ASTSource(kernel, signature, {"BLOCK": 128}), target=GPUTarget("cuda", 90, 32))
    found[name] = [heard.hash, heard.compiled, heard.seconds]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "one.py").write_text(SOURCE.format(comment="", factor="2.0"))
    (folder / "moved.py").write_text(SOURCE.format(comment="# a comment\n" * 7, factor="2.0"))
    (folder / "other.py").write_text(SOURCE.format(comment="", factor="3.0"))
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_kernel_that_moved_in_its_file_is_the_same(found: dict[str, list]) -> None:
    assert found["one"][0] == found["moved"][0] != ""


def test_a_kernel_that_computes_something_else_is_another(found: dict[str, list]) -> None:
    assert found["one"][0] != found["other"][0]


def test_compiling_is_counted_and_timed(found: dict[str, list]) -> None:
    assert found["one"][1] == 1
    assert 0 < found["one"][2] < 60


def test_no_kernel_has_no_hash() -> None:
    assert Compiled().hash == ""


@pytest.mark.parametrize(
    "line",
    ["\t.loc\t1 27 13", '\t.file\t1 "/a/norm.py"', "$L__tmp3:", "// a comment", "$L__func_begin0:"],
)
def test_where_a_line_came_from_is_not_part_of_it(line: str) -> None:
    assert code_hash(f"ld.global.f32 %f1;\n{line}\nret;\n") == code_hash("ld.global.f32 %f1;\nret;\n")


def test_debug_sections_are_not_part_of_it() -> None:
    section = "\t.section\t.debug_abbrev\n\t{\n.b8 1\n\t}\n"
    assert code_hash(f"ret;\n{section}") == code_hash("ret;\n")


def test_an_instruction_is() -> None:
    assert code_hash("add.f32 %f1;\n") != code_hash("mul.f32 %f1;\n")
