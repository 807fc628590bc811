"""The golden page as data: a card per case, holding every judgement of that case."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup

from benchmarks.harness.records import Drift, Golden, Status
from reports import curves, pictures
from reports.curves import Bar, Curve
from reports.item import SEVERITY
from reports.night import Night
from reports.pictures import Picture
from reports.words import number, percent

AT_LEAST = ("ssim", "psnr", "cosine")
"""Metrics whose limit is a lower bound, by a part of their name; every other limit is an upper one."""

RANDOM = "random weights"
"""What the reason of a golden says where its checkpoint was never trained."""

BINS = 20
"""Bars of a histogram."""

SHOWN = ("expected", "actual", "difference", "flip")
FILTERS = ("task", "impl", "dtype", "device", "against", "status")
"""Fields of a record that the page can be filtered by."""


@dataclass(frozen=True)
class Metric:
    """One line of a judgement: value and limit as text; ok is None for a metric without a limit.

    used  how much of its limit it uses, 1 is all: the value over the limit; for a similarity what it lacks of 1, over
          what it may lack; for PSNR the ratio of the root mean squares. None without a limit or a number
    """

    name: str
    value: str
    limit: str
    ok: bool | None
    used: float | None

    @property
    def share(self) -> str:
        """`used` as text: 42%, or how many times its limit."""
        if self.used == math.inf:
            return "none allowed"
        return "" if self.used is None else percent(self.used) if self.used < 10 else f"×{self.used:.3g}"


@dataclass(frozen=True)
class Traced:
    """A trace of a picture and its curves as SVG: local error, free-running error, and each branch's local error."""

    found: Drift
    curves: list[Markup]


@dataclass(frozen=True)
class Judgement:
    """One record of a case, and the anchor that leads to it.

    pictures  expected, actual, difference, FLIP; none where another judgement shows the same
    curves    SVG of the latents' errors and their gain; empty where no trajectory is known
    traced    what a trace found, with its curves; None if it was not traced
    known     SVG of what known-good runs used of the limits, beside tonight; empty without such runs
    answers   of a question: expected and actual text, with the words marked that differ; empty for a picture
    """

    anchor: str
    record: Golden
    pictures: list[Picture]
    metrics: list[Metric]
    curves: list[Markup]
    traced: Traced | None
    known: Markup
    answers: list[tuple[str, Markup]]

    @property
    def words(self) -> str:
        """The verdict in words, or the status of a record that has none."""
        return self.record.words or self.record.status

    @property
    def nearest(self) -> Metric | None:
        """The metric that uses most of its limit."""
        limited = [metric for metric in self.metrics if metric.used is not None]
        return max(limited, key=lambda metric: metric.used or 0.0, default=None)

    @property
    def used(self) -> str:
        """`42% of absmax`, of the metric that uses most of its limit; empty without one."""
        if (metric := self.nearest) is None:
            return ""
        return f"{metric.name} must be 0" if metric.used == math.inf else f"{metric.share} of {metric.name}"

    @property
    def pixelated(self) -> bool:
        """Whether the picture is so small that its pixels should be seen."""
        return any(0 < picture.width < 200 for picture in self.pictures)


@dataclass(frozen=True)
class Card:
    """One case: the worst status of its judgements, and those, failures first."""

    case: str
    anchor: str
    status: Status
    judgements: list[Judgement]

    @property
    def first(self) -> Golden:
        """Any record of the case: task, prompt and provenance are the same in all."""
        return self.judgements[0].record

    @property
    def shown(self) -> Judgement:
        """The judgement whose picture stands for the case."""
        return next((judged for judged in self.judgements if judged.pictures), self.judgements[0])


def cards(night: Night, site: Path, brief: bool = False) -> list[Card]:
    """Failures first, then by case; the pictures that are shown are copied into `site`: if brief, those of failures."""
    cases: dict[str, list[Golden]] = defaultdict(list)
    for record in night.golden:
        cases[record.case].append(record)
    found = [_card(sorted(records, key=_severity), night, site, brief) for records in cases.values()]
    return sorted(found, key=lambda card: (_severity(card.first), card.case))


def about(records: list[Golden]) -> str:
    """What the pictures can be expected to show, from the reasons that their goldens were approved with."""
    if records and all(RANDOM in record.golden_provenance.get("reason", "") for record in records):
        return (
            "The checkpoint has random weights: these pictures are noise by design; "
            "they judge the arithmetic, not the art."
        )
    return "What the pictures show depends on the checkpoint of each case; the case's reason says more."


def choices(records: list[Golden]) -> dict[str, list[str]]:
    """What the page can be filtered by: field -> the values that there are, of those with more than one."""
    found = {name: sorted({str(getattr(record, name)) for record in records}) for name in FILTERS}
    return {name: values for name, values in found.items() if len(values) > 1}


def anchor(*words: str) -> str:
    """A name for a link to a part of the page."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", "-".join(words)).strip("-") or "case"


def _severity(record: Golden) -> int:
    return -SEVERITY.index(record.status)


def _card(records: list[Golden], night: Night, site: Path, brief: bool) -> Card:
    """Two identical pictures are shown only if no other judgement of the case has something to see."""
    first = records[0]
    seen = [record for record in records if not record.identical or record.status != "pass"] or records[:1]
    if brief:
        seen = [record for record in records if record.status != "pass"]
    judgements = [_judgement(r, _pictures(r, night, site) if r in seen else [], _traced(r, night)) for r in records]
    return Card(first.case, anchor(first.case), first.status, judgements)


def _judgement(r: Golden, shown: list[Picture], found: Traced | None) -> Judgement:
    name = anchor(r.case, r.impl, r.dtype, "against", r.against)
    return Judgement(name, r, shown, metrics(r), drift(r), found, population(r), answers(r))


def _traced(record: Golden, night: Night) -> Traced | None:
    """The trace of this very picture; it is shown where the picture is judged against the reference."""
    if record.against != "reference":
        return None
    own = (record.case, record.impl, record.dtype, record.device)
    found = next((one for one in night.drift if (one.case, one.impl, one.dtype, one.device) == own), None)
    return None if found is None else Traced(found, traced_curves(found))


def traced_curves(found: Drift) -> list[Markup]:
    """Local and free-running error beside what known-good runs allow, the gain, and the branches where they differ."""
    steps = found.steps
    drawn = [
        curves.svg(
            "local error of each update", [Curve("local", [s.local for s in steps])], [s.limit_local for s in steps]
        ),
        curves.svg("free-running error", [Curve("free", [s.free for s in steps])], [s.limit_free for s in steps]),
        curves.svg("gain per update", [Curve("gain", [s.gain for s in steps])], []),
    ]
    if len(found.branches) > 1:
        branches = [Curve(f"{name.replace('_', ' ')} branch", values) for name, values in found.branches.items()]
        drawn.append(curves.svg("local error by branch", branches, []))
    return [curve for curve in drawn if curve]


def _pictures(record: Golden, night: Night, site: Path) -> list[Picture]:
    names = ("input",) if record.task == "understand" else SHOWN
    return [pictures.copy(night.folder, name, record.pictures.get(name), site) for name in names]


def metrics(record: Golden) -> list[Metric]:
    """Every metric of a record, those with a limit first."""
    names = [*record.limits, *(name for name in record.metrics if name not in record.limits)]
    return [_metric(name, record) for name in names]


def _metric(name: str, record: Golden) -> Metric:
    value, limit = record.metrics.get(name, math.nan), record.limits.get(name)
    text = "∞ (identical)" if math.isnan(value) and record.identical else number(value)
    if limit is None:
        return Metric(name, text, "", None, None)
    lower = any(part in name.lower() for part in AT_LEAST)
    ok = (value >= limit if lower else value <= limit) or (math.isnan(value) and record.identical)
    if math.isnan(value):  # PSNR of equal pictures is infinite, and read back as no number
        return Metric(name, text, f"{'≥' if lower else '≤'} {number(limit)}", ok, 0.0 if record.identical else None)
    used = _used(name, value, limit)
    return Metric(name, text, f"{'≥' if lower else '≤'} {number(limit)}", ok, used)


def _used(name: str, value: float, limit: float) -> float:
    if "psnr" in name.lower():
        return math.pow(10, min((limit - value) / 20, 300))
    if any(part in name.lower() for part in AT_LEAST):
        value, limit = 1 - value, 1 - limit
    return value / limit if limit > 0 else 0.0 if value <= 0 else math.inf


def drift(record: Golden) -> list[Markup]:
    """How the latents of a running picture come apart, and by what each update multiplies the difference."""
    errors = {name: [e.relative_l2 for e in record.latents if e.field == name] for name in ("x_t", "v_t")}
    if not any(value > 0 for value in errors["x_t"]):
        return []
    steps = [Curve("latent after the update", errors["x_t"]), Curve("velocity", errors["v_t"])]
    limit = record.limits.get("latent_relative_l2")
    limits = [] if limit is None else [limit] * len(errors["x_t"])
    free = curves.svg("relative L2 per update", [c for c in steps if c.values], limits, "limit of the latent")
    x = errors["x_t"]
    gain = [math.nan, *(now / before if before else math.nan for before, now in pairwise(x))]
    drawn = [free]
    if sum(math.isfinite(value) for value in gain) > 1:
        drawn.append(curves.svg("gain per update", [Curve("latent", gain)], []))
    return drawn


def answers(record: Golden) -> list[tuple[str, Markup]]:
    """Expected and actual text of a question; what only one of them has is marked."""
    expected, actual = (re.findall(r"\s*\S+", record.texts.get(name, "")) for name in ("expected", "actual"))
    same = SequenceMatcher(None, expected, actual, autojunk=False).get_matching_blocks()
    kept = {
        "expected": {i for block in same for i in range(block.a, block.a + block.size)},
        "actual": {i for block in same for i in range(block.b, block.b + block.size)},
    }
    told = {"expected": expected, "actual": actual}
    return [
        (
            name,
            Markup("").join(
                word if i in kept[name] else Markup("<mark>{}</mark>").format(word) for i, word in enumerate(words)
            ),
        )
        for name, words in told.items()
        if name in record.texts
    ]


def population(record: Golden) -> Markup:
    """A histogram of what the known-good runs of the case used of their limits, with the limit and tonight."""
    known = record.known_good
    scores = [score for score in known.scores if math.isfinite(score)] if known else []
    if not scores:
        return Markup("")
    width = max(*scores, 1e-9) / BINS
    counts = [0] * BINS
    for score in scores:
        counts[min(int(score / width), BINS - 1)] += 1
    bars = [Bar(i * width, (i + 1) * width, count) for i, count in enumerate(counts)]
    tonight = math.nan if record.score is None else record.score
    marks = [("limit", 1.0, "limit"), (f"tonight {number(tonight)}", min(tonight, 3.0), "now")]
    return curves.histogram(f"share of the limit used by {len(scores)} known-good runs", bars, marks)
