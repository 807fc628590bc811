"""Judging everything but time: the environment, conformance, parity and golden images."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict

from benchmarks.harness.records import Conformance, Difference, Golden, Parity, Status
from reports.item import Area, Item, of_damage, with_step
from reports.night import Night


def judge(night: Night) -> list[Item]:
    """Items of every area before time, in order. Each area has at least one."""
    items: list[Item] = []
    areas: dict[Area, list[Item]] = {
        "environment": _environment(night),
        "conformance": _conformance(night),
        "parity": _parity(night),
        "golden": _golden(night),
    }
    for area, found in areas.items():
        items += with_step(night, area, of_damage(night, area) + found)
    return items


def share(worst: float, limit: float) -> float:
    """A difference as a share of its limit: above 1 is outside. Zero against a limit of zero is 0."""
    if limit == 0:
        return 0.0 if worst == 0 else math.inf
    return worst / limit


def largest_share(record: Parity) -> float:
    """The larger of worst element and RMS, each as a share of its own limit; NaN if either is."""
    shares = share(record.worst, record.limit_worst), share(record.rms, record.limit_rms)
    return math.nan if any(map(math.isnan, shares)) else max(shares)


def _environment(night: Night) -> list[Item]:
    if not night.checks:
        return [Item("environment", "not-measured", "doctor", "no check was recorded", reproduce="motbench doctor")]
    items = [
        Item("environment", "not-measured", check.name, f"{check.found}: {check.cure}", reproduce="motbench doctor")
        for check in night.checks
        if check.status == "failed"
    ]
    warnings = [check for check in night.checks if check.status == "warning"]
    told = "".join(f"; {check.name}: {check.found}" for check in warnings)
    passed = len(night.checks) - len(items)
    return [*items, Item("environment", "pass", "doctor", f"{passed} of {len(night.checks)} checks passed{told}")]


def _conformance(night: Night) -> list[Item]:
    if not night.conformance:
        return [Item("conformance", "not-measured", "conformance", "no case of the original BAGEL was replayed")]
    items = []
    for record in night.conformance:
        type_ = f"motbench parity tests/data/bagel_oracle --case {shlex.quote(record.case)} --impl {record.impl}"
        type_ += f" --device {record.device} --dtype {record.dtype}"
        lost = [d.field for d in record.differences if d.ok and d.limit_worst is not None and math.isnan(d.worst)]
        if not record.ok:
            reason = record.error or _worst_field(record)
            items.append(Item("conformance", "regressed", record.case, reason, "conformance table", type_))
        elif lost or not record.differences:
            reason = f"{lost[0]} has no number" if lost else "no field was compared"
            items.append(Item("conformance", "not-measured", record.case, reason, "conformance table", type_))
    within = len(night.conformance) - len(items)
    told = f"{within} of {len(night.conformance)} cases of the original BAGEL within their limits"
    return items if not within else [*items, Item("conformance", "pass", "conformance", told)]


def _worst_field(record: Conformance) -> str:
    failing = [d for d in record.differences if not d.ok]
    if not failing:
        return "outside its limits, though no field says so"
    d = max(failing, key=_field_share)
    limit = "no limit" if d.limit_worst is None else f"limit {d.limit_worst:.3g}"
    return f"{d.field} is off by {d.worst:.3g} at worst ({limit}); {len(failing)} fields outside"


def _field_share(d: Difference) -> float:
    ratio = share(d.worst, d.limit_worst) if d.limit_worst is not None else 0.0
    return math.inf if math.isnan(ratio) else ratio


def _parity(night: Night) -> list[Item]:
    if not night.parity:
        return [Item("parity", "not-measured", "parity", "no op was compared with the reference")]
    groups: dict[tuple[str, str, str, str], list[Parity]] = defaultdict(list)
    for record in night.parity:
        groups[record.op, record.impl, record.device, record.dtype].append(record)
    items = []
    for (op, impl, device, dtype), records in groups.items():
        type_ = f"python -m pytest tests/mot_impl -k {shlex.quote(f'{op} and {dtype}')}"
        subject = f"{op} {impl} {dtype} on {device}"
        failing = [record for record in records if not record.ok]
        if failing:
            w = max(failing, key=lambda r: math.inf if math.isnan(largest_share(r)) else largest_share(r))
            reason = f"{len(failing)} of {len(records)} cases outside; {w.case}: "
            reason += f"worst {w.worst:.3g} (limit {w.limit_worst:.3g}), rms {w.rms:.3g} (limit {w.limit_rms:.3g})"
            items.append(Item("parity", "regressed", subject, reason, "parity table", type_))
        elif lost := [record.case for record in records if math.isnan(largest_share(record))]:
            items.append(Item("parity", "not-measured", subject, f"{lost[0]} has no number", "parity table", type_))
    ok = sum(record.ok for record in night.parity)
    ops = len({record.op for record in night.parity})
    told = f"{ok} of {len(night.parity)} comparisons of {ops} ops within their limits"
    return items if not ok else [*items, Item("parity", "pass", "parity", told)]


def _golden(night: Night) -> list[Item]:
    items = []
    for record in night.golden:
        subject = f"{record.case} {record.impl} against {record.against}"
        look = night.at(record.pictures["difference"]) if "difference" in record.pictures else "golden gallery"
        lost = [] if record.identical else missing_metrics(record)
        if record.status not in ("pass", "improved"):
            items.append(Item("golden", record.status, subject, record.reason, look, record.reproduce))
        elif lost:
            reason = f"{', '.join(lost)} has a limit but no number"
            items.append(Item("golden", "not-measured", subject, reason, look, record.reproduce))
    for against, what in (("reference", "no fused picture was"), ("golden", "no approved picture was")):
        if not any(record.against == against for record in night.golden):
            reason = f"{what} compared"
            items.append(Item("golden", "not-measured", f"against {against}", reason, "", "motbench golden check"))
    items += _selftest(night)
    held = sum(r.status in ("pass", "improved") for r in night.golden)
    identical = sum(record.identical for record in night.golden)
    told = f"{held} of {len(night.golden)} pictures within their limits, {identical} identical byte for byte"
    if night.selftest is not None:
        runs, seen = (sum(getattr(one.seen, name) for one in night.selftest.faults) for name in ("runs", "seen"))
        told += f"; {seen} of {runs} injected faults seen"
    return items if not held else [*items, Item("golden", "pass", "golden", told)]


def _selftest(night: Night) -> list[Item]:
    """What the gate's own test says unless it is green; of one that left no record, what its step says."""
    if (tested := night.selftest) is not None:
        reason, look = f"the gate's own test: {tested.reason}", "detection table"
        passed = tested.status in ("pass", "improved")
        return [] if passed else [Item("golden", tested.status, "selftest", reason, look, tested.reproduce)]
    step = next((step for step in night.run.steps if step.name == "selftest"), None) if night.run else None
    if step is None:
        return []
    status: Status = "not-measured" if step.status == "pass" else step.status
    reason = step.reason or "it left no record"
    log = night.at("selftest.log")
    return [Item("golden", status, "step selftest", reason, log, "motbench golden selftest --reduced")]


def missing_metrics(record: Golden) -> list[str]:
    """Metrics that have a limit but no number."""
    return [name for name in record.limits if math.isnan(record.metrics.get(name, math.nan))]
