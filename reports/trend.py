"""What happened to every series since when, and which commits can have caused it: steps, breaks and moved numbers.

Points of different environments or protocols are never compared: a series is cut where driver, torch, triton or
protocol changed (an Era), and steps are looked for inside. A step lies between two commits that were measured; the
commits between them that touch the packages under test are its suspects. One without suspects, or behind which the
compiled kernels are the same, is the machine's, and is said to be.

A suspicion is a step that is not certain yet. A comparison in paired rounds (results/comparisons) across any step
confirms or refutes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Literal

from benchmarks.harness.records import SCHEMA, Series, Status, read_json
from reports import beside, decide, history, steps
from reports.accepted import Accepted
from reports.beside import Nights
from reports.decide import key
from reports.history import History, Line, Point
from reports.item import SEVERITY
from reports.joint import VERDICT, Joint, selecting
from reports.steps import Step

FILE = "trend.json"
RECENT = 30
"""Commits back from the newest within which a step decides the status; older ones are listed only."""
MATTERS_BYTES = 0.02
OPS_ALONE = ("linear", "norm", "mlp")
"""Subjects of the suite without a model around them."""

Kind = Literal["slower", "faster", "larger", "smaller", "moved", "broke", "mended"]
Certainty = Literal["found", "suspected", "confirmed", "refuted"]
WORSE: tuple[Kind, ...] = ("slower", "larger", "broke")
BETTER: tuple[Kind, ...] = ("faster", "smaller", "mended")
"""What moved (a picture's distance from the reference) is neither: the picture's own limits judge it."""


@dataclass(frozen=True)
class Commit:
    """A commit of a range; packages: which of the packages under test it changes."""

    hash: str
    subject: str
    packages: list[str]

    def touches(self, series: Series) -> bool:
        """Whether it can have changed what the series measures: the reference never imports the fused twin, and ops
        alone never the model."""
        unused = {"mot_impl"} if series.params.get("impl") == "reference" else set()
        unused |= {"bagel"} if series.benchmark.partition(".")[0] in OPS_ALONE else set()
        return bool(set(self.packages) - unused)


SAME = 2
"""Points within which two steps are the same."""


@dataclass(frozen=True)
class Era:
    """The points of a line that can be compared: indices into Line.points. changed: against the era before it."""

    fingerprint: str
    protocol: int
    points: list[int]
    changed: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happened to a series between two measured commits.

    before, after  the last commit without it and the first one with it, as far as the data can tell
    seen           the commit at which it was certain, or suspected
    ratio          after / before, with its 95 % interval; NaN for what is no ratio
    suspects       commits in between that touch what the series measures; others: how many that do not
    machine        why it is the machine's and not a commit's; empty if it is a commit's
    tile           how the tile and its origin changed there; empty if it did not, or has none
    asv            whether asv's own detector has a step within two points of it
    standing       it still holds at the newest point, and is recent: it decides the status
    accepted       why a person lets it pass
    beside         it was suspected only beside the other series of the same nights (reports/beside.py)
    """

    series: Series
    hardware: str
    kind: Kind
    certainty: Certainty
    before: str
    after: str
    seen: str
    ratio: float
    low: float
    high: float
    p: float
    suspects: list[Commit] = field(default_factory=list)
    others: int = 0
    machine: str = ""
    tile: str = ""
    asv: bool = False
    standing: bool = False
    accepted: str = ""
    reproduce: str = ""
    beside: bool = False


@dataclass(frozen=True)
class Drawn:
    """A line with its eras, for a plot."""

    line: Line
    eras: list[Era]


@dataclass(frozen=True)
class Trend:
    """The history of everything that was measured. events: standing ones first, then newest first.

    vanished  sentences about machines that have measured nothing for days (history.VANISHED_DAYS)
    """

    head: str
    created: str
    status: Status
    sentence: str
    commits: int
    events: list[Event]
    lines: list[Drawn]
    damage: list[str]
    elsewhere: int = 0
    vanished: list[str] = field(default_factory=list)
    schema: int = SCHEMA


Between = Callable[[str, str], list[Commit]]
"""The commits after the first hash up to and with the second, oldest first."""


@dataclass(frozen=True)
class Known:
    """What the history is judged with: the order of commits, what lies between two, comparisons, what is accepted."""

    order: dict[str, int]
    between: Between
    joints: list[Joint]
    accepted: Sequence[Accepted]
    today: date

    @property
    def newest(self) -> str:
        """The last commit."""
        return max(self.order, key=self.order.__getitem__)


def judge(found: History, known: Known, created: str) -> Trend:
    """Every line's events, and what they mean for the newest commit."""
    lines = [Drawn(line, eras(line, found)) for line in found.lines]
    nights = beside.nights(found.lines)
    events = [event for drawn in lines for event in _events(drawn, known, nights)]
    doubt = {"confirmed": 0, "found": 1, "suspected": 2, "refuted": 3}
    events.sort(
        key=lambda e: (not e.standing, e.kind not in WORSE, doubt[e.certainty], -known.order[e.after], e.series.label)
    )
    gone = history.vanished(found.lines)
    status = _status(events, lines)
    if gone and SEVERITY.index(status) < SEVERITY.index("not-measured"):
        status = "not-measured"
    measured = {point.commit for line in found.lines for point in line.points}
    sentence = gone[0] if status == "not-measured" and gone else _sentence(status, events, len(lines), len(measured))
    shown = found.damage, found.elsewhere, gone
    return Trend(known.newest, created, status, sentence, len(measured), events, lines, *shown)


def comparisons(results: Path) -> tuple[list[Joint], list[str]]:
    """Every stored decision of `motbench compare` and `gate`, and a line per one that cannot be read."""
    joints, damage = [], []
    for path in sorted(results.glob(f"comparisons/*/{VERDICT}")):
        try:
            joints.append(read_json(path, Joint))
        except (ValueError, OSError) as error:
            damage.append(f"comparisons/{path.parent.name} cannot be read: {error}")
    return joints, damage


def eras(line: Line, found: History) -> list[Era]:
    """The line's points by environment and protocol, in order of first appearance."""
    groups: dict[tuple[str, int], list[int]] = {}
    for i, point in enumerate(line.points):
        groups.setdefault((point.fingerprint[:6], point.protocol), []).append(i)
    made: list[Era] = []
    for (fingerprint, protocol), points in groups.items():
        what = ""
        if made:
            last = made[-1]
            said = [f"protocol {last.protocol} to {protocol}"] if last.protocol != protocol else []
            if last.fingerprint != fingerprint:
                facts = [found.environments.get(name, {}) for name in (last.fingerprint, fingerprint)]
                said.append(history.changed(facts[0], facts[1]))
            what = ", ".join(said)
        made.append(Era(fingerprint, protocol, points, what))
    return made


def _events(drawn: Drawn, known: Known, nights: Nights) -> list[Event]:
    line, found = drawn.line, []
    for era in drawn.eras:
        points = [line.points[i] for i in era.points]
        found += _breaks(line, points)
        whole = [point for point in points if not point.failed]
        found += _steps(line, whole, known, nights) if line.unit in ("seconds", "bytes") else _moves(line, whole)
    # Only what lies in the newest era can still stand.
    newest = {line.points[i].commit for i in drawn.eras[-1].points} if drawn.eras else set()
    return [_explained(event, line, known, event.after in newest) for event in _standing(found, known)]


def _breaks(line: Line, points: Sequence[Point]) -> list[Event]:
    made = []
    for old, new in pairwise(points):
        if old.failed != new.failed and old.commit != new.commit:
            made.append(_event(line, "broke" if new.failed else "mended", old.commit, new.commit))
    return made


def _moves(line: Line, points: Sequence[Point]) -> list[Event]:
    """Numbers that a commit determines: any other value is another result."""
    return [
        _event(line, "moved", old.commit, new.commit, new.center / old.center if old.center else math.nan)
        for old, new in pairwise(points)
        if old.commit != new.commit and not math.isclose(old.center, new.center, rel_tol=1e-6, abs_tol=1e-12)
    ]


def _steps(line: Line, points: Sequence[Point], known: Known, nights: Nights) -> list[Event]:
    """Steps of positive numbers, and a suspicion at the end, by its own numbers or else beside the other series."""
    if any(point.center <= 0 for point in points):
        return []
    logs = [math.log(point.center) for point in points]
    smallest = MATTERS_BYTES if line.unit == "bytes" else decide.matters(line.profile or "cpu", line.series.benchmark)
    found = steps.steps(logs, smallest)
    doubtful = steps.suspicion(logs, smallest)
    named = [*found, *([doubtful] if doubtful else [])]
    alone = [step for step in _alone(line, points, nights, smallest) if all(_apart(step, one) for one in named)]
    theirs = _asv_steps([point.center for point in points])
    certain: list[tuple[Step, Certainty]] = [(step, "found") for step in found]
    certain += [(step, "suspected") for step in (*named[len(found) :], *alone)]
    return [
        replace(
            _of_step(line, points, step, certainty, known),
            asv=any(abs(step.at - at) <= SAME for at in theirs),
            beside=step in alone,
        )
        for step, certainty in certain
    ]


def _alone(line: Line, points: Sequence[Point], nights: Nights, smallest: float) -> list[Step]:
    """What stepped beside the other series of the same nights, however certain there, and a suspicion at the end."""
    relative = nights.beside(line, points) if line.unit == "seconds" else None
    if relative is None:
        return []
    doubtful = steps.suspicion(relative, smallest)
    return [*steps.steps(relative, smallest), *([doubtful] if doubtful else [])]


def _apart(one: Step, other: Step) -> bool:
    return abs(one.at - other.at) > SAME


def _of_step(line: Line, points: Sequence[Point], step: Step, certainty: Certainty, known: Known) -> Event:
    up = step.shift > 0
    if line.unit == "bytes":
        kind: Kind = "larger" if up else "smaller"
    else:
        kind = "slower" if up else "faster"
    before, after = points[step.first - 1], points[step.last]
    half = 1.96 * step.error
    event = _event(line, kind, before.commit, after.commit, math.exp(step.shift))
    same = before.kernels and before.kernels == after.kernels
    event = replace(
        event,
        seen=points[step.seen].commit,
        low=math.exp(step.shift - half),
        high=math.exp(step.shift + half),
        p=step.p,
        machine="time changed, the compiled kernels did not" if same else "",
        tile=f"{before.tile} to {after.tile}" if before.tile != after.tile else "",
    )
    return replace(event, certainty=_compared(event, certainty, known))


def _compared(event: Event, certainty: Certainty, known: Known) -> Certainty:
    """What paired rounds across the step say; the newest comparison that can see it decides."""
    for joint in reversed(known.joints):
        base, head = known.order.get(joint.asked.base), known.order.get(joint.asked.head)
        if base is None or head is None or base > known.order[event.before] or head < known.order[event.after]:
            continue
        for one in joint.decisions:
            if key(one.series) != key(event.series) or one.change is None:
                continue
            if one.status == {"slower": "regressed", "faster": "improved"}.get(event.kind):
                return "confirmed"
            if one.status in ("pass", "inconclusive") and one.visible < abs(event.ratio - 1):
                return "refuted"
    return certainty


def _asv_steps(values: list[float]) -> list[int]:
    from asv.step_detect import detect_steps

    return [int(left) for left, *_ in detect_steps(values)][1:]


def _event(line: Line, kind: Kind, before: str, after: str, ratio: float = math.nan) -> Event:
    nothing = math.nan
    return Event(line.series, line.hardware, kind, "found", before, after, after, ratio, nothing, nothing, nothing)


def _standing(events: list[Event], known: Known) -> list[Event]:
    """Mark those that still hold at the end: not undone by what came after them."""
    opposite: dict[Kind, Kind] = {"slower": "faster", "larger": "smaller", "broke": "mended"}
    opposite |= {other: kind for kind, other in opposite.items()}
    made = []
    for event in events:
        later = [e for e in events if known.order[e.after] > known.order[event.after] and e.certainty != "suspected"]
        undone = any(e.kind == opposite.get(event.kind, "moved") for e in later if e.kind != event.kind)
        recent = known.order[known.newest] - known.order[event.after] < RECENT
        made.append(replace(event, standing=recent and not undone and event.certainty != "refuted"))
    return made


def _explained(event: Event, line: Line, known: Known, newest: bool) -> Event:
    """With its suspects, whether it counts, and the line to type."""
    commits = known.between(event.before, event.after)
    suspects = [commit for commit in commits if commit.touches(event.series)]
    machine = event.machine
    if event.before == event.after:
        machine = "the same commit before and after"
    elif not suspects:
        machine = "no commit in between touches what it measures"
    covering = [entry for entry in known.accepted if entry.allows(event.series, event.ratio, known.today)]
    accepted = f"accepted until {covering[0].until}: {covering[0].reason}" if covering else ""
    timed = line.unit == "seconds" and event.kind != "mended"
    command = f"motbench bisect {event.before[:10]} {event.after[:10]} --bench {selecting(event.series)}"
    return replace(
        event,
        suspects=suspects,
        others=len(commits) - len(suspects),
        machine=machine,
        accepted=accepted,
        standing=event.standing and newest and not machine and not accepted,
        reproduce=command if timed or event.kind == "broke" else "",
    )


def _status(events: Sequence[Event], lines: Sequence[Drawn]) -> Status:
    standing = [event for event in events if event.standing]
    if not lines:
        return "not-measured"
    if any(e.kind in WORSE and e.certainty != "suspected" for e in standing):
        return "regressed"
    if any(e.kind in WORSE for e in standing):
        return "inconclusive"
    return "improved" if any(e.kind in BETTER for e in standing) else "pass"


def _sentence(status: Status, events: Sequence[Event], lines: int, commits: int) -> str:
    of = f"{lines} series over {commits} {'commit' if commits == 1 else 'commits'}"
    standing = [event for event in events if event.standing and event.kind in (*WORSE, *BETTER)]
    if status == "not-measured":
        return "No commit of this history has been measured."
    if status == "pass":
        return f"Nothing stands against {of}."
    worst = [event for event in standing if event.kind in WORSE] or standing
    by = f" by {worst[0].ratio - 1:+.1%}" if math.isfinite(worst[0].ratio) else ""
    since = (
        worst[0].suspects[0].hash[:8] if len(worst[0].suspects) == 1 else f"{worst[0].before[:8]}..{worst[0].after[:8]}"
    )
    more = f", and {len(worst) - 1} more" if len(worst) > 1 else ""
    verb = "may be " if worst[0].certainty == "suspected" else "is " if by else ""
    return f"{worst[0].series.label} {verb}{worst[0].kind}{by} since {since}{more}; {of}."
