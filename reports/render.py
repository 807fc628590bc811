"""The pages of the site: what each shows is gathered here and laid out by templates/."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from benchmarks.harness.records import EXIT_CODES, Status, write_atomic
from reports import dashboard, gallery, numerics, page, selftest, speed, speed_page, timing, verdict, whole, words
from reports.item import AREAS, SEVERITY, worst
from reports.night import Night
from reports.plots import Shelf
from reports.since import Judged, look
from reports.trend import WORSE, Trend
from reports.verdict import Verdict

TEMPLATES = Path(__file__).parent / "templates"
STATIC = ("style.css", "site.js", "trends.js")
GOLDEN = "golden.html"
ASV = "asv/index.html"
"""asv's own site; it is linked where it has been built."""
PAGES = (("tonight", "index.html"), ("golden images", GOLDEN), ("trends", "trends.html"), ("speed", "speed.html"))
MARKS = {"pass": "✓", "improved": "▲", "regressed": "✕", "inconclusive": "?", "not-measured": "–"}
ANCHORS = {
    "environment": "provenance",
    "conformance": "agreement",
    "parity": "agreement",
    "golden": "golden",
    "time": "time",
}
"""The section of the page that shows each area."""


@dataclass(frozen=True)
class Past:
    """One line of the history. link is relative to the site's root; `why` says why a run cannot be shown.

    tonight  the newest run of its machine, and not long before the newest of all
    """

    run_id: str
    commit: str
    started: str
    machine: str
    status: Status
    sentence: str
    link: str
    why: str
    tonight: bool = False


@dataclass(frozen=True)
class Site:
    """What all pages share. folder: where they go; known: the verdicts of all runs that can be read, newest first;
    trend: the history as judged last, or None and why."""

    folder: Path
    results: Path
    shelf: Shelf
    history: list[Past]
    known: list[Judged]
    trend: Trend | None
    no_trend: str

    def earlier(self, run_id: str) -> list[Judged]:
        """The runs before one, newest first: ids begin with the time."""
        return [one for one in self.known if one.run_id < run_id]


def static(site: Site) -> None:
    """Style, scripts, the data that scripts read, and asv's own site where `asv publish` has built one."""
    if (site.results / "asv-html" / "index.html").is_file():
        shutil.copytree(site.results / "asv-html", site.folder / "asv")
    for name in STATIC:
        shutil.copyfile(TEMPLATES / name, site.folder / name)
    if site.trend is not None:
        write_atomic(site.folder / "trends-data.js", dashboard.script(site.trend).encode())


def run(site: Site, path: Path, night: Night, judged: Verdict) -> None:
    """The two pages of one run: the night, and its pictures. Of an earlier one they show in full only what failed."""
    root = "" if path.parent == site.folder else "../"
    pictures = path.with_name(GOLDEN if not root else f"{path.stem}-{GOLDEN}")
    brief = bool(root)
    cards = gallery.cards(night, site.folder, brief)
    common = {
        "root": root,
        "brief": brief,
        "night": night,
        "run": night.run,
        "verdict": judged,
        "golden_page": str(pictures.relative_to(site.folder)),
        "about_pictures": gallery.about(night.golden),
        "cards": cards,
    }
    told = _headline(judged, None if brief else site.trend)
    tonight = Judged(judged.run_id, night.run.provenance.commit if night.run else "", judged)
    changes = dashboard.changes(site.trend) if site.trend and not root else []
    shown = {
        "looked": look(tonight, site.earlier(judged.run_id), cards, changes),
        "standing": [change for change in changes if change.event.standing],
        "history": site.history,
        "machines": [past for past in site.history if past.tonight] if not brief else [],
        "told": told,
        "page_status": told[0],
    }
    _write(site, path, "page.html", common | _of_the_night(site, night, judged, brief) | shown)
    golden = {
        "choices": gallery.choices(night.golden),
        "filtered": gallery.FILTERS,
        "status": worst(judged.area("golden")),
        "headline": verdict.headline(judged.area("golden")),
        "bases": selftest.bases(night.golden),
        "detection": selftest.table(night.selftest),
    }
    _write(site, pictures, "golden.html", common | golden)


def _headline(judged: Verdict, found: Trend | None) -> tuple[Status, str]:
    """One status and one sentence: those of the run, or of the trend where that is worse; no trend is no finding."""
    if found is None or found.status == "not-measured":
        return judged.status, judged.sentence
    worse = SEVERITY.index(found.status) > SEVERITY.index(judged.status)
    return (found.status, found.sentence) if worse else (judged.status, judged.sentence)


def trends(site: Site) -> None:
    """Every series over the commits."""
    found = site.trend
    values: dict[str, Any] = {"trend": found, "why": site.no_trend, "worse": WORSE}
    if found is None:
        values |= {"status": "not-measured", "sentence": f"Not measured: {site.no_trend}."}
    else:
        values |= {"status": found.status, "sentence": found.sentence}
        values |= {"choices": dashboard.choices(found), "changes": dashboard.changes(found)}
    _write(site, site.folder / "trends.html", "trends.html", {"root": "", "page_status": values["status"]} | values)


def speed_pages(site: Site, night: Night) -> None:
    """Kernels against the card's limits, pictures by stage, and comparisons."""
    kernels, unread = speed_page.kernels(site.results)
    compared, more = speed_page.comparisons(site.results)
    stages, found = speed_page.stages(night.stages), whole.read(site.results)
    values = {
        "root": "",
        "kernels": kernels,
        "choices": speed_page.choices(kernels),
        "stages": stages,
        "stage_names": list(dict.fromkeys(name for row in stages for name in row.seconds)),
        "comparisons": compared,
        "whole": found,
        "damage": [*unread, *more, *found.damage],
        "page_status": "",
    }
    _write(site, site.folder / "speed.html", "speed.html", values)


def _of_the_night(site: Site, night: Night, judged: Verdict, brief: bool) -> dict[str, Any]:
    numbers = speed.fresh_numbers(site.results, night.run)[0] if night.run else []
    conformance_rows, parity_rows = page.conformance_rows(night.conformance), page.parity_rows(night.parity)
    shelf = None if brief else site.shelf
    times = page.time_tables(night, judged, shelf)
    return {
        "gates": [(area, worst(judged.area(area)), verdict.headline(judged.area(area))) for area in AREAS],
        "to_type": next(
            (item.reproduce for item in judged.items if item.status == judged.status and item.reproduce), ""
        ),
        "open_items": [item for item in judged.items if item.status != "pass"],
        "origins": page.tile_origins(night),
        "conformance_rows": conformance_rows,
        "conformance_place": page.shared_place(conformance_rows),
        "parity_rows": parity_rows,
        "parity_place": page.shared_place(parity_rows),
        "parity_choices": page.parity_choices(night.parity),
        "parity_plot": page.parity_plot(night.parity, shelf),
        "times": times,
        "never_timed": page.never_timed(night),
        "noise": page.noise(times),
        "values": page.values(night, numbers),
        "outside": page.outside(night.profile.outside if night.profile else []),
        "matters": words.percent(timing.MATTERS[night.run.provenance.environment.profile]) if night.run else "",
    }


def _write(site: Site, path: Path, template: str, values: dict[str, Any]) -> None:
    newest = values.get("verdict") or (site.known[0].verdict if site.known else None)
    status = newest.status if newest else "not-measured"
    built = site.folder / ASV
    common = {
        "here": path.name if not values["root"] else "",
        "pages": PAGES,
        "asv": ASV if built.exists() else "",
        "page_status": status,
        "exit_code": EXIT_CODES[status],
    }
    write_atomic(path, _ENVIRONMENT.get_template(template).render(common | values).encode())


def _environment() -> Environment:
    made = Environment(
        # Read when the program starts: a night lasts, and the tree may be edited while it runs.
        loader=DictLoader({path.name: path.read_text() for path in TEMPLATES.glob("*.html")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"marks": MARKS, "anchors": ANCHORS, "ratio": words.ratio, "change": words.change}
    made.filters |= {
        "seconds": words.seconds,
        "number": words.number,
        "mebibytes": words.mebibytes,
        "rate": selftest.rate,
        "at_most": selftest.at_most,
        "largest_share": lambda record: words.percent(numerics.largest_share(record)),
        "share": lambda d: words.percent(numerics.share(d.worst, d.limit_worst)),
    }
    return made


_ENVIRONMENT = _environment()
