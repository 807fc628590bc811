"""One verdict of two axes: does the image hold, and is it as fast? Judged as data; reports/told.py writes it out."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Literal

from benchmarks.harness.records import (
    SCHEMA,
    Environment,
    Failure,
    Look,
    SchemaError,
    Series,
    Status,
    Timing,
    read_json,
    read_lines,
    write_json,
)
from reports import accepted, decide, explained, numerics
from reports.accepted import Accepted
from reports.decide import Decision, Key
from reports.explained import Explained
from reports.item import SEVERITY, worst
from reports.night import load

ASKED = "comparison.json"
VERDICT = "decision.json"
LOOKS = "looks.jsonl"
UNCHANGED = "unchanged kernel, not timed"
MOST = 60
"""Rounds of one series in one comparison, at most."""


@dataclass(frozen=True)
class Asked:
    """What a comparison was asked to measure; written before the first process, so that a killed run can be judged.

    smallest  the change of each series that matters, a fraction
    """

    base: str
    head: str
    environment: Environment
    protocol: int
    series: list[Series]
    smallest: list[float]
    created: str
    command: str
    schema: int = SCHEMA


@dataclass(frozen=True)
class Image:
    """The first axis: parity and golden of head. `sentence` is one clause; reproduce is one line to type."""

    status: Status
    sentence: str
    reproduce: str = ""


@dataclass(frozen=True)
class Joint:
    """What a comparison says. decisions: worst first; empty where numerics failed, because speed is void then.

    image    None where only speed was asked for
    skipped  series that one of the commits does not have, with the reason: listed, not counted
    damage   records that could not be read, contradict themselves or belong to something else
    explained  the change of each whole picture, by op
    unchanged  series that both commits run with the same kernels, with the reason: not timed, listed, not counted
    """

    asked: Asked
    status: Status
    sentence: str
    image: Image | None
    decisions: list[Decision]
    skipped: list[Series] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    false_alarms: float = decide.FALSE_ALARMS
    misses: float = decide.MISSES
    power: float = decide.POWER
    explained: list[Explained] = field(default_factory=list)
    unchanged: list[Series] = field(default_factory=list)
    schema: int = SCHEMA

    def reproduce(self, decision: Decision) -> str:
        """One line that measures this series again; twice as long where it could not be decided."""
        pattern = selecting(decision.series)
        longer = min(max(2 * decision.rounds, decide.LEAST), MOST)
        rounds = decision.rounds if decision.status == "regressed" else longer
        return f"motbench compare {self.asked.base[:10]} {self.asked.head[:10]} --bench {pattern} --rounds {rounds}"


def exactly(series: Series) -> str:
    """The regular expression that selects this series alone."""
    return "^" + re.sub(r"([.()\[\]+*?|^$\\{}])", r"\\\1", series.label) + "$"


def selecting(series: Series) -> str:
    """What to type after --bench to select this series alone: the same, quoted for a shell."""
    pattern = exactly(series)
    # asv's names hold single quotes: inside double ones they read better, if nothing else in them means something.
    return f'"{pattern}"' if re.fullmatch(r"[\w.,' ()\\^-]+\$", pattern) else shlex.quote(pattern)


def judge(folder: Path, entries: Sequence[Accepted], today: date, with_image: bool) -> Joint:
    """Judge the records of a comparison. Raises SchemaError, OSError, or ValueError if comparison.json is broken."""
    asked = asked_of(folder)
    image = image_of(folder) if with_image else None
    if image is not None and image.status not in ("pass", "improved"):
        return Joint(asked, image.status, _sentence(image.sentence, "speed is void"), image, [])
    timing, damage = _lines(folder, asked)
    failures, broken = read_lines(folder / "failures.jsonl", Failure)
    damage += [f"failures.jsonl has {broken} unreadable lines"] if broken else []
    looks, broken = read_lines(folder / LOOKS, Look)
    damage += [f"{LOOKS} has {broken} unreadable lines"] if broken else []
    same = unchanged(asked, looks, timing)
    decisions, skipped = _decisions(_without(asked, same), timing, failures)
    decisions = accepted.apply(decisions, entries, today)
    decisions.sort(key=lambda one: (bool(one.accepted), -SEVERITY.index(one.status), -_moved(one)))
    # Nothing to time is no missing number: both commits run the same code, and each was seen to.
    status = worst_of(decisions) if decisions or not same else "pass"
    sentence = _sentence(image.sentence if image else "", speed_sentence(decisions, len(same)))
    pictures, left_out = explained.read(folder, timing, asked.environment.profile)
    return Joint(
        asked, status, sentence, image, decisions, skipped, [*damage, *left_out], explained=pictures, unchanged=same
    )


def write(folder: Path, asked: Asked) -> None:
    """Write what was asked."""
    write_json(folder / ASKED, asked)


def asked_of(folder: Path) -> Asked:
    """What was asked of a comparison. Raises SchemaError, OSError, or ValueError if the file is broken."""
    try:
        return read_json(folder / ASKED, Asked)
    except SchemaError:
        raise
    except ValueError as error:
        raise ValueError(
            f"{folder / ASKED} does not say what was compared: {error.__cause__}; it must be the file that motbench "
            "compare or gate wrote there: restore it, or measure again without --records"
        ) from error


def image_of(folder: Path) -> Image:
    """What parity and golden records of a run folder say, in one clause."""
    items = [item for item in numerics.judge(load(folder)) if item.area in ("parity", "golden")]
    status = worst(items)
    bad = [item for item in items if item.status == status]
    if status in ("pass", "improved"):
        return Image(status, "the image holds")
    verb = {"regressed": "the image moved", "not-measured": "the image was not measured"}.get(status, "image unclear")
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return Image(status, f"{verb}: {bad[0].subject}: {bad[0].reason}{more}", bad[0].reproduce)


def worst_of(decisions: Sequence[Decision]) -> Status:
    """The run's status: the worst series decides; an accepted one counts as pass; no series at all is not measured."""
    found: list[Status] = ["pass" if one.accepted else one.status for one in decisions]
    return max(found, key=SEVERITY.index, default="not-measured")


def unchanged(asked: Asked, looks: Sequence[Look], timing: Sequence[Timing] = ()) -> list[Series]:
    """Series whose base and head run the same compiled kernels, launched alike, in this environment; with the reason.

    Not those of which a whole round was timed, nor those in which nothing was compiled or no launch could be seen.
    """
    timed = {name for name, by_round in decide.by_series(timing).items() if decide.counted(by_round)}
    commits = {"base": asked.base, "head": asked.head}
    seen: dict[Key, dict[str, Look]] = defaultdict(dict)
    for look in looks:
        if look.fingerprint == asked.environment.fingerprint and look.commit == commits.get(look.side):
            seen[decide.key(Series(look.benchmark, look.params))][look.side] = look
    found = []
    for series in asked.series:
        base, head = (seen[decide.key(series)].get(side) for side in commits)
        if base is None or head is None or decide.key(series) in timed:
            continue
        if (base.kernels, base.launches) == (head.kernels, head.launches) and base.kernels and base.launches:
            found.append(Series(series.benchmark, series.params, f"{UNCHANGED} ({base.kernels})"))
    return found


def _without(asked: Asked, left_out: Sequence[Series]) -> Asked:
    names = {decide.key(series) for series in left_out}
    kept = [i for i, series in enumerate(asked.series) if decide.key(series) not in names]
    return replace(asked, series=[asked.series[i] for i in kept], smallest=[asked.smallest[i] for i in kept])


def speed_sentence(decisions: Sequence[Decision], unchanged: int = 0) -> str:
    """The second axis in one clause, worst first; `unchanged` series were not timed."""
    counted = [one for one in decisions if not one.accepted]
    said: list[str] = []
    words: tuple[tuple[Status, Literal["slower", "faster", "inconclusive", "not measured"]], ...] = (
        ("regressed", "slower"),
        ("not-measured", "not measured"),
        ("inconclusive", "inconclusive"),
        ("improved", "faster"),
    )
    for status, word in words:
        group = [one for one in counted if one.status == status]
        if group:
            first = group[0]
            detail = f", {first.series.label} {first.reason}" if not said else ""
            said.append(f"{len(group)} of {len(decisions)} series {word}{detail}")
    left = f"{unchanged} unchanged and not timed" if unchanged else ""
    if not decisions:
        return f"no series was timed: {left}" if left else "no series was measured"
    kept = len(decisions) - len(counted)
    said += [f"{kept} accepted"] if kept else []
    said = said or [f"none of {len(decisions)} series is slower"]
    return "; ".join([*said, left] if left else said)


def _sentence(*clauses: str) -> str:
    told = "; ".join(clause for clause in clauses if clause)
    return f"{told[0].upper()}{told[1:]}."


def _lines(folder: Path, asked: Asked) -> tuple[list[Timing], list[str]]:
    """The comparison's own records; what belongs to another machine, commit or protocol is named, never compared."""
    lines, broken = read_lines(folder / "timing.jsonl", Timing)
    damage = [f"timing.jsonl has {broken} unreadable {'line' if broken == 1 else 'lines'}"] if broken else []
    commits = {"base": asked.base, "again": asked.base, "head": asked.head}
    own = [
        line
        for line in lines
        if (line.fingerprint, line.protocol) == (asked.environment.fingerprint, asked.protocol)
        and line.commit == commits.get(line.side)
    ]
    if len(own) < len(lines):
        damage.append(f"{len(lines) - len(own)} records are of another machine, commit or protocol and do not count")
    if unsound := sum(not decide.sound(line) for line in own):
        damage.append(f"records without a possible time, or a clock, for every sample: {unsound}; they do not count")
    if seen := [line for line in own if decide.shared(line)]:
        names = sorted({name for line in seen if line.clock for name in line.clock.others or ()})
        damage.append(
            f"another process was on the GPU in {len(seen)} of {len(own)} processes ({', '.join(names[:3])}): rounds "
            "that only some sides shared with it do not count, and the others may be off; end it and run again"
        )
    return own, damage


def _decisions(
    asked: Asked, timing: Sequence[Timing], failures: Sequence[Failure]
) -> tuple[list[Decision], list[Series]]:
    rounds = decide.rounds_of(timing, asked.environment.profile)
    failed: dict[Key, list[Failure]] = defaultdict(list)
    for failure in failures:
        failed[decide.key(Series(failure.benchmark, failure.params))].append(failure)
    measured, smallest, others, skipped = [], [], [], []
    for series, minimum in zip(asked.series, asked.smallest, strict=True):
        name = decide.key(series)
        if name in rounds and rounds[name].seconds:
            measured.append(rounds[name])
            smallest.append(minimum)
        elif reason := _lacking(failed[name]):
            skipped.append(Series(series.benchmark, series.params, reason))
        else:
            others.append(decide.not_measured(series, minimum, failed[name]))
    return [*decide.decide(measured, smallest), *others], skipped


def _lacking(failures: Sequence[Failure]) -> str:
    """Why a series that base lacks cannot be compared; empty if base has it: what head lost is not measured."""
    if not any(failure.kind == "absent" and failure.side == "base" for failure in failures):
        return ""
    if any(failure.side == "head" and failure.kind == "absent" for failure in failures):
        return "neither commit has it"
    return (
        "" if any(failure.side == "head" for failure in failures) else "new in head: base has nothing to compare with"
    )


def _moved(decision: Decision) -> float:
    return abs(decision.change.ratio - 1) if decision.change else 0.0
