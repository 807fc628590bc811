"""A golden's verdict in words: identical, compatible with reordering, outside, or not measured."""

from __future__ import annotations

from benchmarks.harness.records import KnownGood, LatentError, Status


def words(status: Status, reason: str, same: bool, p: float | None, known: KnownGood | None) -> str:
    """The verdict in words, before a trace has said where a difference begins.

    same   nothing that was compared differs: neither a byte of the picture nor a number of the latents
    p      share of the known-good runs that used at least as much of their limits; None without such runs
    """
    if status == "not-measured":
        return f"not measured: {reason}"
    if status == "regressed":
        return f"outside: {reason}"
    if same:
        return "identical"
    if p is None or known is None:
        return "compatible with reordering (p not measured: its limits were set by hand)"
    noted = f"; {known.note}" if known.note else ""
    return f"compatible with reordering (p = {p:.2g}, {known.runs} known-good runs{noted})"


def same(identical: bool, latents: list[LatentError]) -> bool:
    """Whether nothing differs: no byte of the picture and, where they are known, no number of the latents."""
    return identical and all(error.worst == 0 for error in latents)
