"""What a person lets pass: accepted slowdowns and quarantined series, each with a reason and a date on which it ends.

[[accepted]]                                    in accepted.toml of the repository
series = "linear.track_seconds('qkv', *"        asv's name; * stands for anything
kind = "slower"                                 or "flaky": quarantined, whatever its time does
up_to = 0.08                                    largest slowdown accepted (slower only)
until = 2026-12-31                              last day
reason = "exact rounding costs 8 %"
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness.records import Series
from reports.decide import Decision

FILE = "accepted.toml"


@dataclass(frozen=True)
class Accepted:
    """One entry of the file; see above."""

    series: str
    kind: Literal["slower", "flaky"]
    until: date
    reason: str
    up_to: float = 0.0

    def covers(self, decision: Decision) -> bool:
        """Whether it is about this decision, its date aside."""
        if not self._names(decision.series):
            return False
        if self.kind == "flaky":
            return decision.status in ("regressed", "improved", "inconclusive")
        return (
            decision.status == "regressed" and decision.change is not None and decision.change.ratio <= 1 + self.up_to
        )

    def allows(self, series: Series, ratio: float, today: date) -> bool:
        """Whether a step of this series to `ratio` times its time may stand today."""
        return self._names(series) and today <= self.until and (self.kind == "flaky" or ratio <= 1 + self.up_to)

    def _names(self, series: Series) -> bool:
        # A label's own brackets are round: only * and ? of fnmatch can occur in it by intention.
        return fnmatch.fnmatchcase(series.label, self.series.replace("[", "[[]"))


def read(path: Path) -> list[Accepted]:
    """The entries; a missing file is none. Raises ValueError naming the file, what is wrong and the cure."""
    if not path.exists():
        return []
    try:
        document = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}; see docs/measuring.md for its form") from error
    if set(document) - {"accepted"}:
        unknown = ", ".join(sorted(set(document) - {"accepted"}))
        raise ValueError(f"{path} has {unknown}, but only [[accepted]] entries may stand there")
    return [_entry(path, i, entry) for i, entry in enumerate(document.get("accepted", []), 1)]


def apply(decisions: Sequence[Decision], entries: Sequence[Accepted], today: date) -> list[Decision]:
    """The decisions, with `accepted` set where an entry covers them; one past its date is named only."""
    return [_apply(decision, entries, today) for decision in decisions]


def _apply(decision: Decision, entries: Sequence[Accepted], today: date) -> Decision:
    covering = [entry for entry in entries if entry.covers(decision)]
    valid = [entry for entry in covering if today <= entry.until]
    if valid:
        entry = valid[0]
        what = "accepted" if entry.kind == "slower" else "quarantined as flaky"
        return replace(decision, accepted=f"{what} until {entry.until}: {entry.reason}")
    if covering:
        ended = max(entry.until for entry in covering)
        return replace(decision, reason=f"{decision.reason}; it was accepted until {ended}, which has passed")
    return decision


def _entry(path: Path, number: int, entry: Any) -> Accepted:
    where = f"{path}, entry {number}"
    kind = entry.get("kind")
    fields = {"series": str, "kind": str, "until": date, "reason": str} | ({"up_to": float} if kind == "slower" else {})
    if kind not in ("slower", "flaky"):
        raise ValueError(f"{where}: kind is {kind!r}; write slower or flaky")
    if set(entry) != set(fields):
        raise ValueError(f"{where} has the keys {', '.join(sorted(entry))}; it needs {', '.join(sorted(fields))}")
    for name, type_ in fields.items():
        if type(entry[name]) is not type_:
            raise ValueError(f"{where}: {name} is {entry[name]!r}, but must be a {type_.__name__}")
    if not entry["reason"].strip():
        raise ValueError(f"{where}: the reason is empty; say why it may pass")
    return Accepted(**entry)
