"""What a night judges pictures with is imported beside packages from before there were quantised experts, too."""

import os
import subprocess
import sys
import types
from pathlib import Path

from benchmarks.harness.good_sums import kind_of

JUDGES = ("goldens", "golden_answers", "golden_watch", "night_traces", "selftest", "calibrate")
ROOT = Path(__file__).parents[2]

HIDING = """
import importlib, pkgutil, sys
import bagel, reference_impl.contract
for package in (bagel, reference_impl):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
for name in ("Kind", "QuantisedRows", "Rows"):
    delattr(reference_impl.contract, name)
sys.modules["reference_impl.quantise"] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
"""Imports all packages under test, takes from them what came with quantised experts, then imports the ruler's."""


def test_the_ruler_is_imported_without_quantised_experts():
    command = [sys.executable, "-P", "-c", HIDING, *(f"benchmarks.harness.{name}" for name in JUDGES)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_experts_from_before_there_were_kinds_are_dense():
    assert kind_of(types.SimpleNamespace()) == "dense"
