"""From outcomes to rates: the record of a self-test, its status, and its tables as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.harness.fault import Fault
from benchmarks.harness.goldens import Plan
from benchmarks.harness.rates import rate
from benchmarks.harness.records import TIERS, Detection, Form, Rate, Selftest, Status
from benchmarks.harness.selftest import Outcome

SEEN_AT_LEAST, ALARMS_AT_MOST = 0.95, 0.01
"""Of the runs of every fault by its own tier; of all good runs by any tier."""

GOOD_RUNS = 299
"""Without one alarm they bound the rate by 1 % at 95 % confidence: 0.95 = 1 - 0.99 ^ 299."""

GOOD_MADE = 450
"""How many the full form makes: on a CPU a quarter is the reference bit for bit, tests no limit and is not counted."""

ALL_GOOD = "all good runs"


@dataclass(frozen=True)
class Asked:
    """What was tested: the faults on the cases with this plan, and whether that was all there is (form "full").

    words  options of `motbench golden selftest` that choose the same again
    runs   how many were asked for; 0 if nobody counted
    """

    plan: Plan
    cases: Sequence[str]
    faults: Sequence[Fault]
    form: Form
    words: tuple[str, ...] = ()
    runs: int = 0


def share(seen: Sequence[bool]) -> Rate:
    """How many of these runs."""
    return rate(sum(seen), len(seen))


def record(asked: Asked, outcomes: Sequence[Outcome], seconds: float) -> Selftest:
    """What came of it."""
    faults = [_of_fault(asked, fault, outcomes) for fault in asked.faults]
    names = {fault.name for fault in asked.faults}
    made = [outcome for outcome in outcomes if outcome.name not in names]
    good = [outcome for outcome in made if outcome.differs]
    families = [_of_good(name, [one for one in good if one.name == name]) for name in _names(good)]
    alarms = _of_good(ALL_GOOD, good)
    status, reason = _judged(asked, faults, alarms, max(asked.runs - len(outcomes), 0))
    return Selftest(
        form=asked.form,
        impl=asked.plan.impl,
        device=asked.plan.device.type,
        dtype=asked.plan.dtype_name,
        cases=list(asked.cases),
        faults=faults,
        good=families,
        alarms=alarms,
        identical=len(made) - len(good),
        status=status,
        reason=reason,
        reproduce=_command(asked.plan, list(asked.words)),
        seconds=seconds,
    )


def _of_fault(asked: Asked, fault: Fault, outcomes: Sequence[Outcome]) -> Detection:
    own = [outcome for outcome in outcomes if outcome.name == fault.name]
    missed = [one for one in own if not one.tiers.get(fault.tier, True)]
    words = (["--fault", fault.name, "--case", one.case, "--draws", str(one.draw + 1)] for one in missed)
    return Detection(
        name=fault.name,
        what=fault.what,
        part=fault.part,
        tier=fault.tier,
        seen=share([one.tiers[fault.tier] for one in own if fault.tier in one.tiers]),
        **_alone(own),
        wrong=[_command(asked.plan, line) for line in words],
    )


def _of_good(name: str, own: Sequence[Outcome]) -> Detection:
    alarming = [(one, [tier for tier, seen in one.tiers.items() if seen]) for one in own]
    return Detection(
        name=name,
        what="",
        part="",
        tier="",
        seen=share([bool(tiers) for _, tiers in alarming]),
        **_alone(own),
        wrong=[f"{one.case}, {one.name} {one.draw}: {', '.join(tiers)}" for one, tiers in alarming if tiers],
    )


def _alone(own: Sequence[Outcome]) -> dict[str, dict[str, Rate]]:
    """Tier, metric and gate, each alone."""
    return {
        kind: {
            name: share([getattr(one, kind)[name] for one in own if name in getattr(one, kind)])
            for name in dict.fromkeys(name for one in own for name in getattr(one, kind))
        }
        for kind in ("tiers", "metrics", "gates")
    }


def _names(outcomes: Iterable[Outcome]) -> list[str]:
    return list(dict.fromkeys(outcome.name for outcome in outcomes))


def _judged(asked: Asked, faults: Sequence[Detection], alarms: Detection, left: int) -> tuple[Status, str]:
    """A missed class or too many alarms is regressed; what nobody could see or run is not measured. left: runs that
    were asked for and not made.
    """
    missed = [f"{one.name} ({one.seen.seen} of {one.seen.runs}, {one.tier})" for one in faults if is_missed(one)]
    reasons = [f"missed: {', '.join(missed)}"] if missed else []
    if alarms.seen.seen > ALARMS_AT_MOST * alarms.seen.runs:
        reasons.append(f"{alarms.seen.seen} of {alarms.seen.runs} good runs alarm, first {alarms.wrong[0]}")
    if reasons:
        return "regressed", "; ".join(reasons)
    unseen = [one.name for one in faults if not one.seen.runs]
    reasons = [f"no case could show or judge {', '.join(unseen)}"] if unseen else []
    if left:
        reasons.append(f"{left} of {asked.runs} runs were not made")
    if asked.form == "full" and alarms.seen.runs < GOOD_RUNS:
        reasons.append(f"{alarms.seen.runs} good runs but {GOOD_RUNS} are needed")
    return ("not-measured", "; ".join(reasons)) if reasons or not faults else ("pass", "")


def is_missed(one: Detection) -> bool:
    """Whether the fault's tier saw less of its runs than it must."""
    return one.seen.seen < SEEN_AT_LEAST * one.seen.runs


def _command(plan: Plan, words: Sequence[str]) -> str:
    where = ["--impl", plan.impl, "--device", plan.device.type, "--dtype", plan.dtype_name]
    return shlex.join(["motbench", "golden", "selftest", *words, *where])


def markdown(tested: Selftest) -> str:
    """Two tables: every fault and good family by tier; and every metric and gate alone."""
    tiers = list(TIERS) + [tier for tier in tested.alarms.tiers if tier not in TIERS]
    tiers += [tier for one in tested.faults[:1] for tier in one.tiers if tier not in tiers]
    lines = [_row("fault, at its smallest", "must be seen by", "seen (at least)", *tiers), _rule(3 + len(tiers))]
    for one in tested.faults:
        cells = (_share(one.tiers.get(tier)) for tier in tiers)
        lines.append(_row(f"{one.name}: {one.what}", one.tier, _bounded(one.seen, one.seen.low), *cells))
    lines += ["", _row("good runs", "alarms (at most)", *tiers), _rule(2 + len(tiers))]
    for one in [*tested.good, *([tested.alarms] if tested.good else [])]:
        name = f"**{one.name}**" if one is tested.alarms else one.name
        lines.append(_row(name, _bounded(one.seen, one.seen.high), *(_share(one.tiers.get(tier)) for tier in tiers)))
    if tested.identical:
        lines.append(_row("the reference bit for bit, not counted", f"{tested.identical} more", *["-"] * len(tiers)))
    lines += ["", _row("alone", "classes seen", "runs seen", "false alarms"), _rule(4)]
    for label, kind, name in _alone_rows(tested):
        found = [rates[name] for one in tested.faults if name in (rates := getattr(one, kind))]
        caught = sum(one.seen >= SEEN_AT_LEAST * one.runs for one in found if one.runs)
        seen, runs = sum(one.seen for one in found), sum(one.runs for one in found)
        alarms = getattr(tested.alarms, kind).get(name)
        lines.append(_row(label, f"{caught} of {len(found)}", f"{seen} of {runs}", _share(alarms)))
    return "\n".join(lines) + "\n"


def _alone_rows(tested: Selftest) -> list[tuple[str, str, str]]:
    """(label, field of Detection, name) of every tier, metric and gate."""
    every = [*tested.faults, tested.alarms]
    return [
        (f"`{name}`" if kind == "metrics" else name, kind, name)
        for kind in ("tiers", "metrics", "gates")
        for name in dict.fromkeys(name for one in every for name in getattr(one, kind))
    ]


def _bounded(found: Rate, bound: float) -> str:
    return f"{found.seen} of {found.runs} ({bound:.1%})" if found.runs else "not measured"


def _share(found: Rate | None) -> str:
    return f"{found.seen} of {found.runs}" if found and found.runs else "-"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(count: int) -> str:
    return _row(*["---"] * count)
