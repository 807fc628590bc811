"""The suite as asv finds it, and the undocumented behaviour of asv that it stands on."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import clock, doctor, environment, profiles

ROOT = environment.repository_root()
EXPECTED = (Path(__file__).parent / "expected_benchmarks.txt").read_text().split()


@pytest.fixture(scope="module")
def discovered(tmp_path_factory):
    import asv.benchmark

    file = tmp_path_factory.mktemp("discovery") / "benchmarks.json"
    command = [sys.executable, asv.benchmark.__file__, "discover", str(ROOT / "benchmarks"), str(file)]
    subprocess.run(command, check=True, cwd=file.parent)
    return {benchmark["name"]: benchmark for benchmark in json.loads(file.read_text())}


def test_names_are_exactly_the_committed_list(discovered):
    assert sorted(discovered) == EXPECTED


def test_axes_are_those_of_the_profiles(discovered):
    found = {
        name: {
            axis: tuple(value.strip("'") for value in values)
            for axis, values in zip(benchmark["param_names"], benchmark["params"], strict=True)
        }
        for name, benchmark in discovered.items()
    }
    assert found == {name: dict(benchmark.axes) for name, benchmark in profiles.SUITE.items()}


def test_every_version_carries_the_protocol(discovered):
    assert {benchmark["version"] for benchmark in discovered.values()} == {f"protocol {clock.PROTOCOL}"}


def test_unit_and_rounds_reach_asv(discovered):
    found = {name: (benchmark["unit"], benchmark["rounds"]) for name, benchmark in discovered.items()}
    assert found == {name: (benchmark.unit, benchmark.rounds) for name, benchmark in profiles.SUITE.items()}


def test_timeout_allows_a_first_compilation(discovered):
    assert {benchmark["timeout"] for benchmark in discovered.values()} == {300}


@pytest.mark.parametrize("name", sorted(doctor.KNOWN_ASV))
def test_installed_version_is_one_that_was_tested(name):
    assert importlib.metadata.version(name) == doctor.KNOWN_ASV[name]


def test_benchmark_files_import_neither_torch_nor_a_package_under_test():
    files = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__")
    heavy = ("torch", "triton", "reference_impl", "mot_impl", "bagel")
    code = (
        f"import importlib, sys; [importlib.import_module('benchmarks.' + name) for name in {files}]; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
