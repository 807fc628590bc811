"""Since when something is as it is tonight: the first run that said so, and the last one that did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.dashboard import Change
from reports.gallery import Card, Judgement
from reports.item import Item, worst
from reports.verdict import Verdict


@dataclass(frozen=True)
class Judged:
    """One earlier run and what it said; commit is empty if its run.json cannot be read."""

    run_id: str
    commit: str
    verdict: Verdict


@dataclass(frozen=True)
class Since:
    """first: the oldest run that says the same without a break, tonight's if none does; before: the last one that
    judged this and said otherwise, None if no earlier run did."""

    first: Judged
    before: Judged | None


@dataclass(frozen=True)
class Looked:
    """One thing to look at: an item of the verdict, since when, its picture if it is about one, and its trends."""

    item: Item
    since: Since
    picture: Judgement | None
    card: Card | None
    changes: list[Change]


def since(item: Item, tonight: Judged, earlier: Sequence[Judged]) -> Since:
    """Walk back from tonight; earlier is newest first. A run that did not measure the area says nothing."""
    first = tonight
    for run in earlier:
        items = run.verdict.area(item.area)
        if any((one.subject, one.status) == (item.subject, item.status) for one in items):
            first = run
        elif worst(items) != "not-measured":
            return Since(first, run)
    return Since(first, None)


def look(tonight: Judged, earlier: Sequence[Judged], cards: Sequence[Card], changes: Sequence[Change]) -> list[Looked]:
    """What is not green, worst first as the verdict has it."""
    made = []
    for item in tonight.verdict.items:
        if item.status == "pass":
            continue
        card, picture = _picture(item, cards) if item.area == "golden" else (None, None)
        own = [c for c in changes if c.event.standing and c.event.series.benchmark == item.subject]
        made.append(Looked(item, since(item, tonight, earlier), picture, card, own if item.area == "time" else []))
    return made


def _picture(item: Item, cards: Sequence[Card]) -> tuple[Card | None, Judgement | None]:
    """The judgement that an item of the golden area is about."""
    for card in cards:
        for judged in card.judgements:
            record = judged.record
            if item.subject == f"{record.case} {record.impl} against {record.against}" and record.status == item.status:
                return card, judged
    return None, None
