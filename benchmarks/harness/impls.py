"""An implementation by name: reference, fused, or a third party's `package.module:OPS`."""

from __future__ import annotations

import importlib
import typing
from pathlib import Path

if typing.TYPE_CHECKING:
    from reference_impl.contract import MoTOps

REFERENCE, FUSED = "reference", "fused"


def load_impl(spec: str, tiles: Path | None = None, accumulation: str | None = None) -> MoTOps:
    """The implementation that `spec` names, imported from wherever this process finds it.

    spec          "reference", "fused" or "package.module:OPS", OPS being a MoTOps
    tiles         a folder of tile tables that the fused implementation asks before its own
    accumulation  "fast" or "exact" sums of the fused implementation's fp8 products; None: as it likes

    Sets nothing global: whoever runs on a CPU has set TRITON_INTERPRET=1 before. Raises ValueError for a name that
    leads nowhere or to something else, and for tiles without the fused implementation.
    """
    for name, given in (("tiles", tiles), ("accumulation", accumulation)):
        if given is not None and spec != FUSED:
            raise ValueError(
                f"{name} {given} were given with implementation {spec!r}; only {FUSED!r} reads them: --impl {FUSED}"
            )
    if spec == REFERENCE:
        import reference_impl

        return reference_impl.OPS
    if spec == FUSED:
        import mot_impl

        if tiles is None and accumulation is None:
            return typing.cast("MoTOps", mot_impl.OPS)
        from mot_impl.tiles import TileTable

        sums: dict[str, typing.Any] = {} if accumulation is None else {"accumulation": accumulation}
        return typing.cast("MoTOps", mot_impl.fused_ops(TileTable.load(tiles), **sums))
    return _third_party(spec)


def said(error: Exception) -> str:
    """What an implementation raised, in one line that is never empty; a refusal's own sentence needs no type."""
    text = " ".join(str(error).split())
    if text and isinstance(error, ValueError | OSError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _third_party(spec: str) -> MoTOps:
    from reference_impl.contract import MoTOps

    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"implementation {spec!r} is not {REFERENCE}, {FUSED} or package.module:OPS")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"implementation {spec!r} does not import: {error}; is it on PYTHONPATH?") from error
    except Exception as error:  # whatever a third party's code raises while it is imported
        found = f"{type(error).__name__}: {error}"
        raise ValueError(f"implementation {spec!r} does not import: {found}; mend it, then try again") from error
    ops = getattr(module, attribute, None)
    if not isinstance(ops, MoTOps):
        found = "nothing" if ops is None else type(ops).__name__
        raise ValueError(f"implementation {spec!r} is {found} but must be a reference_impl.contract.MoTOps")
    return ops
