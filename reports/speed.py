"""Judging time: is every expected series there, and is any slower than the stored baseline?"""

from __future__ import annotations

import math
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from benchmarks.harness.records import Run, Series, Status, Timing, Value
from reports import asv_results, baseline
from reports.asv_results import Number
from reports.item import Item, of_damage, with_step
from reports.night import Night
from reports.timing import Comparison, Key, Measured, compare, key, measured

R = TypeVar("R", Timing, Value, Timing | Value)

WHY = {
    "absent": "no number",
    "failed": "the benchmark failed",
    "skipped": "the benchmark was skipped",
    "measured": "asv has a number, but the run has no record of it",
}
"""Why a series without a record has none, by what asv says of it."""


@dataclass(frozen=True)
class Speed:
    """What is known of tonight's time. `baseline` is a run id, or empty."""

    items: list[Item]
    baseline: str = ""
    comparisons: list[Comparison] = field(default_factory=list)


def judge(night: Night, results: Path, numerics_failed: bool, passed: Callable[[Path], bool]) -> Speed:
    """Judge time. `passed(run folder)` says whether an earlier verdict makes a run fit to be a baseline."""
    if night.run is None or numerics_failed:
        return Speed([Item("time", "not-measured", "every series", "not judged: numerics failed")])
    numbers, damage = fresh_numbers(results, night.run)
    now = measured(of_this_run(night.timing, night.run), night.run.provenance.environment.profile)
    items = of_damage(night, "time") + _foreign(night, night.run)
    items += [Item("time", "not-measured", "asv results", text, str(results / "asv")) for text in damage]
    items += _missing(night, night.run, set(now), numbers)
    found = baseline.find(night.run, results, passed)
    comparisons: list[Comparison] = []
    if found.night is None or found.night.run is None:
        stays = "tonight's times become it" if night.run.stored else "this tree is dirty, so tonight's are not stored"
        items.append(Item("time", "pass", "baseline", f"{found.reason}; {stays}"))
    else:
        comparisons, compared = _against(night.run, found.night, found.night.run, now)
        items += compared
    if not night.timing and not night.values:
        items = [item for item in items if item.status != "pass"]
    return Speed(with_step(night, "time", items), found.night.run_id if found.night else "", comparisons)


def of_this_run(found: Sequence[R], run: Run) -> list[R]:
    """The records that belong to the run's commit, environment and protocol."""
    p = run.provenance
    wanted = (p.commit, p.environment.fingerprint, p.protocol)
    return [record for record in found if (record.commit, record.fingerprint, record.protocol) == wanted]


def _foreign(night: Night, run: Run) -> list[Item]:
    everything: list[Timing | Value] = [*night.timing, *night.values]
    valid = of_this_run(everything, run)
    if len(valid) == len(everything):
        return []
    other, p = next(record for record in everything if record not in valid), run.provenance
    was = f"commit {other.commit[:8]}, environment {other.fingerprint}, protocol {other.protocol}"
    now = f"commit {p.commit[:8]}, environment {p.environment.fingerprint}, protocol {p.protocol}"
    reason = f"{len(everything) - len(valid)} records are of another run ({was}; this one is {now})"
    return [Item("time", "not-measured", "benchmark records", reason, night.at())]


def fresh_numbers(results: Path, run: Run) -> tuple[list[Number], list[str]]:
    """asv's numbers of the run's commit that were started during the run; others belong to another night."""
    numbers, damage = asv_results.read(results / "asv", run.provenance.commit)
    since, until = _instant(run.started), _instant(run.finished)
    if since is None:
        return [], [*damage, f"run.json says that it started at {run.started!r}, which is no ISO 8601 time"]
    fresh = [n for n in numbers if n.started and since <= n.started and (until is None or n.started <= until)]
    return fresh, damage


def _instant(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _missing(night: Night, run: Run, timed: set[Key], numbers: list[Number]) -> list[Item]:
    if night.profile is None or not night.profile.expected:
        reason = "series.json is missing" if night.profile is None else "series.json expects no series"
        return [Item("time", "not-measured", "series", f"{reason}: nobody knows what should have been measured")]
    valued = {key(v.benchmark, v.params) for v in of_this_run(night.values, run) if not math.isnan(v.value)}
    asv = {key(number.benchmark, number.params): number.state for number in numbers}
    missing: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for series in night.profile.expected:
        name = key(series.benchmark, series.params)
        if name not in timed | valued:
            missing[series.benchmark, WHY[asv.get(name, "absent")]].append(series)
    return [
        Item("time", "not-measured", benchmark, f"{why}: {_listed(group)}", night.at("asv.log"), _run(run, benchmark))
        for (benchmark, why), group in missing.items()
    ]


def _listed(group: list[Series], most: int = 4) -> str:
    names = [" ".join(series.params.values()) or "no parameters" for series in group[:most]]
    return ", ".join(names) + (f" and {len(group) - most} more" if len(group) > most else "")


def _against(run: Run, base: Night, base_run: Run, now: dict[Key, Measured]) -> tuple[list[Comparison], list[Item]]:
    then = measured(of_this_run(base.timing, base_run), base_run.provenance.environment.profile)
    old, new = base_run.provenance.commit, run.provenance.commit
    comparisons = compare(now, then, run.provenance.environment.profile, old == new)
    items = _moved(comparisons, old, new)
    quiet = sum(c.status == "pass" for c in comparisons)
    told = f"{quiet} of {len(comparisons)} series within noise of run {base.run_id}"
    if old == new:
        told = f"{len(comparisons)} series measured again at the commit of run {base.run_id}: differences are noise"
    gone = len(then) - len(comparisons)
    told += f"; {len(now) - len(comparisons)} new without a baseline" if len(now) > len(comparisons) else ""
    told += f"; {gone} of the baseline no longer measured" if gone else ""
    return comparisons, [*items, Item("time", "pass", "baseline", told)]


def _moved(comparisons: list[Comparison], old: str, new: str) -> list[Item]:
    """One item per benchmark and status, naming the series that moved furthest."""
    groups: dict[tuple[str, Status], list[Comparison]] = defaultdict(list)
    for c in comparisons:
        if c.status != "pass":
            groups[c.benchmark, c.status].append(c)
    items = []
    for (benchmark, status), group in groups.items():
        first = max(group, key=lambda c: abs(c.shift))
        reason = f"{len(group)} series; furthest {' '.join(first.params.values())}: {first.reason}"
        type_ = f"motbench compare {old[:8]} {new[:8]} --bench {_pattern(benchmark)}"
        items.append(Item("time", status, benchmark, reason, "time table", type_))
    return items


def _run(run: Run, benchmark: str) -> str:
    return f"asv run --show-stderr --bench {_pattern(benchmark)} {run.provenance.commit[:8]}^!"


def _pattern(benchmark: str) -> str:
    return shlex.quote("^" + re.escape(benchmark))
