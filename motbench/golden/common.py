"""What the subcommands of `motbench golden` share."""

from __future__ import annotations

import typing
from pathlib import Path

if typing.TYPE_CHECKING:
    from benchmarks.harness.goldens import Plan


def goldens_folder() -> Path:
    """The folder of golden cases of this checkout."""
    from benchmarks.harness.environment import repository_root
    from benchmarks.harness.golden_case import GOLDENS

    return repository_root() / GOLDENS


def plan_of(impl: str, device: str, dtype: str, tiles: Path | None = None, quantise: str | None = None) -> Plan:
    """What a command line names, beside the reference. Raises what `implementation.resolve` and `kind_named` do."""
    import reference_impl
    from benchmarks.harness.goldens import Plan
    from motbench.implementation import kind_named, one_thread_on_a_cpu, resolve

    ops, place, precision = resolve(impl, device, dtype, tiles)
    one_thread_on_a_cpu(place)
    return Plan(impl, ops, reference_impl.OPS, place, precision, kind_named(quantise))
