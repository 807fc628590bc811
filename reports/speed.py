"""Judging time: is every expected series there, and is any slower than the stored baseline?"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks.harness.records import Run, Series, Timing
from reports import asv_results, baseline
from reports.asv_results import Number
from reports.item import Item, of_damage, of_step
from reports.night import Night
from reports.timing import Comparison, Key, Measured, compare, key, measured


@dataclass(frozen=True)
class Speed:
    """What is known of tonight's time. `baseline` is a run id, or empty."""

    items: list[Item]
    baseline: str = ""
    comparisons: list[Comparison] = field(default_factory=list)


def judge(night: Night, results: Path, numerics_failed: bool, passed: Callable[[Path], bool]) -> Speed:
    """Judge time. `passed(run folder)` says whether an earlier verdict makes a run fit to be a baseline."""
    if night.run is None or numerics_failed:
        return Speed([Item("time", "not-measured", "time", "not judged: numerics failed")])
    valid, foreign = of_this_run(night, night.run)
    numbers, damage = fresh_numbers(results, night.run)
    items = of_damage(night, "time") + foreign
    items += [Item("time", "not-measured", "asv results", text, str(results / "asv")) for text in damage]
    now = measured(valid)
    items += _missing(night, now, numbers)
    found = baseline.find(night.run, results, passed)
    comparisons: list[Comparison] = []
    if found.night is None or found.night.run is None:
        stays = "tonight's times become it" if night.run.stored else "this tree is dirty, so tonight's are not stored"
        items.append(Item("time", "pass", "baseline", f"{found.reason}; {stays}"))
    else:
        comparisons, compared = _against(night.run, found.night, found.night.run, now)
        items += compared
    items = of_step(night, "time", items) + items
    return Speed(items, found.night.run_id if found.night else "", comparisons)


def of_this_run(night: Night, run: Run) -> tuple[list[Timing], list[Item]]:
    """Timing records that belong to the run's commit, environment and protocol; the others, named."""
    p = run.provenance
    wanted = (p.commit, p.environment.fingerprint, p.protocol)
    valid = [t for t in night.timing if (t.commit, t.fingerprint, t.protocol) == wanted]
    if len(valid) == len(night.timing):
        return valid, []
    other = next(t for t in night.timing if (t.commit, t.fingerprint, t.protocol) != wanted)
    was = f"commit {other.commit[:8]}, environment {other.fingerprint}, protocol {other.protocol}"
    now = f"commit {p.commit[:8]}, environment {wanted[1]}, protocol {p.protocol}"
    reason = f"{len(night.timing) - len(valid)} timing records are of another run ({was}; this one is {now})"
    return valid, [Item("time", "not-measured", "timing.jsonl", reason, str(night.folder / "timing.jsonl"))]


def fresh_numbers(results: Path, run: Run) -> tuple[list[Number], list[str]]:
    """asv's numbers of the run's commit that were started during the run; older ones belong to another night."""
    numbers, damage = asv_results.read(results / "asv", run.provenance.commit)
    since = datetime.fromisoformat(run.started)
    return [n for n in numbers if n.started is not None and n.started >= since], damage


def _missing(night: Night, now: dict[Key, Measured], numbers: list[Number]) -> list[Item]:
    if night.profile is None or not night.profile.expected:
        reason = "series.json is missing" if night.profile is None else "series.json expects no series"
        return [Item("time", "not-measured", "series", f"{reason}: nobody knows what should have been measured")]
    asv = {key(number.benchmark, number.params): number for number in numbers}
    missing: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for series in night.profile.expected:
        name = key(series.benchmark, series.params)
        if why := _why_missing(name in now, asv.get(name)):
            missing[series.benchmark, why].append(series)
    return [
        Item("time", "not-measured", benchmark, f"{why}: {_listed(group)}", "asv's output", _run(night, benchmark))
        for (benchmark, why), group in missing.items()
    ]


def _why_missing(timed: bool, number: Number | None) -> str:
    """Why an expected series has no number; empty if it has one."""
    if timed:
        return ""
    if number is None:
        return "no number"
    if number.state == "measured":
        return "asv has a time but timing.jsonl has no record" if number.unit == "seconds" else ""
    return "the benchmark failed" if number.state == "failed" else "the benchmark was skipped"


def _listed(group: list[Series], most: int = 4) -> str:
    names = [" ".join(series.params.values()) or "no parameters" for series in group[:most]]
    return ", ".join(names) + (f" and {len(group) - most} more" if len(group) > most else "")


def _against(run: Run, base: Night, base_run: Run, now: dict[Key, Measured]) -> tuple[list[Comparison], list[Item]]:
    then = measured(of_this_run(base, base_run)[0])
    old, new = base_run.provenance.commit, run.provenance.commit
    comparisons = compare(now, then, run.provenance.environment.profile, old == new)
    items = [
        Item(
            "time",
            c.status,
            f"{c.benchmark} {' '.join(c.params.values())}",
            c.reason,
            "time table",
            _again(old, new, c),
        )
        for c in comparisons
        if c.status != "pass"
    ]
    told = f"{len(comparisons) - len(items)} of {len(comparisons)} series within noise of run {base.run_id}"
    if old == new:
        told = f"{len(comparisons)} series measured again at the commit of run {base.run_id}: differences are noise"
    gone = len(then) - len(comparisons)
    told += f"; {len(now) - len(comparisons)} new without a baseline" if len(now) > len(comparisons) else ""
    told += f"; {gone} of the baseline no longer measured" if gone else ""
    return comparisons, [*items, Item("time", "pass", "baseline", told)]


def _run(night: Night, benchmark: str) -> str:
    commit = night.run.provenance.commit[:8] if night.run else "HEAD"
    return f"asv run --show-stderr --bench {shlex.quote('^' + re.escape(benchmark))} {commit}^!"


def _again(old: str, new: str, c: Comparison) -> str:
    bench = shlex.quote("^" + re.escape(c.benchmark))
    return f"asv continuous --interleave-rounds --bench {bench} {old[:8]} {new[:8]}"
