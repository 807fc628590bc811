"""The gallery of golden images: a card per case, holding every judgement of that case."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.records import Golden, Status
from reports import pictures
from reports.item import SEVERITY
from reports.night import Night
from reports.pictures import Picture
from reports.words import number

AT_LEAST = ("ssim", "psnr", "cosine")
"""Metrics whose limit is a lower bound, by a part of their name; every other limit is an upper one."""

RANDOM = "random weights"
"""What the reason of a golden says where its checkpoint was never trained."""


@dataclass(frozen=True)
class Metric:
    """One line of a judgement: value and limit as text; ok is None for a metric without a limit."""

    name: str
    value: str
    limit: str
    ok: bool | None


@dataclass(frozen=True)
class Judgement:
    """One record of a case. pictures: expected, actual, difference; none where another judgement shows the same."""

    record: Golden
    pictures: list[Picture]
    metrics: list[Metric]


@dataclass(frozen=True)
class Card:
    """One case: the worst status of its judgements, and those, failures first."""

    case: str
    status: Status
    judgements: list[Judgement]

    @property
    def first(self) -> Golden:
        """Any record of the case: task, prompt and provenance are the same in all."""
        return self.judgements[0].record


def cards(night: Night, site: Path) -> list[Card]:
    """Failures first, then by case; the pictures that are shown are copied into `site`."""
    cases: dict[str, list[Golden]] = defaultdict(list)
    for record in night.golden:
        cases[record.case].append(record)
    found = [_card(case, sorted(records, key=_severity), night, site) for case, records in cases.items()]
    return sorted(found, key=lambda card: (_severity(card.first), card.case))


def about(records: list[Golden]) -> str:
    """What the pictures can be expected to show, from the reasons that their goldens were approved with."""
    if records and all(RANDOM in record.golden_provenance.get("reason", "") for record in records):
        return (
            "The checkpoint has random weights: these pictures are noise by design; "
            "they judge the arithmetic, not the art."
        )
    return "What the pictures show depends on the checkpoint of each case; the case's reason says more."


def _severity(record: Golden) -> int:
    return -SEVERITY.index(record.status)


def _card(case: str, records: list[Golden], night: Night, site: Path) -> Card:
    """Two identical pictures are shown only if no other judgement of the case has something to see."""
    seen = [record for record in records if not record.identical or record.status != "pass"] or records[:1]
    return Card(
        case,
        records[0].status,
        [Judgement(r, _pictures(r, night, site) if r in seen else [], _metrics(r)) for r in records],
    )


def _pictures(record: Golden, night: Night, site: Path) -> list[Picture]:
    names = ("expected", "actual", "difference")
    return [pictures.copy(night.folder, name, record.pictures.get(name), site) for name in names]


def _metrics(record: Golden) -> list[Metric]:
    names = [*record.limits, *(name for name in record.metrics if name not in record.limits)]
    return [_metric(name, record) for name in names]


def _metric(name: str, record: Golden) -> Metric:
    value, limit = record.metrics.get(name, math.nan), record.limits.get(name)
    text = "∞ (identical)" if math.isnan(value) and record.identical else number(value)
    if limit is None:
        return Metric(name, text, "", None)
    lower = any(part in name.lower() for part in AT_LEAST)
    ok = (value >= limit if lower else value <= limit) or (math.isnan(value) and record.identical)
    return Metric(name, text, f"{'≥' if lower else '≤'} {number(limit)}", ok)
