"""The registry of injected faults: what `motbench golden selftest` asks the gate to see."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.fault import Fault
from benchmarks.harness.faults_of_layers import LAYER_FAULTS
from benchmarks.harness.faults_of_ops import OP_FAULTS
from benchmarks.harness.faults_of_pipeline import PIPELINE_FAULTS

FAULTS = {fault.name: fault for fault in (*OP_FAULTS, *LAYER_FAULTS, *PIPELINE_FAULTS)}
"""By name, in the order of the tiers that must see them."""


def chosen(names: Sequence[str] | None) -> list[Fault]:
    """The faults of these names, all for None or nothing. Raises ValueError for an unknown one."""
    if unknown := [name for name in names or () if name not in FAULTS]:
        raise ValueError(f"fault {', '.join(unknown)} is unknown; use one of {', '.join(FAULTS)}")
    return [FAULTS[name] for name in names] if names else list(FAULTS.values())
