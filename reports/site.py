"""One folder of static HTML that opens from disk: the newest run is index.html, earlier ones lie under runs/."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.harness.records import EXIT_CODES, Run, SchemaError, read_json, write_atomic
from reports import gallery, numerics, page, selftest, speed, timing, verdict, words
from reports.item import AREAS, worst
from reports.night import Night, load, run_folders
from reports.plots import Shelf
from reports.verdict import Verdict

PAGES = 30
"""Earlier runs that get a page of their own; older ones are listed."""

MARKER = ".motbench-report"
"""A file that says a folder was written here and may be replaced."""

TEMPLATES = Path(__file__).parent / "templates"
STATIC = ("style.css", "site.js")
GOLDEN = "golden.html"
PAGES_OF_THE_SITE = (("tonight", "index.html"), ("golden images", GOLDEN))
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
    """One line of the history. link is relative to the site's root; `why` says why a run cannot be shown."""

    run_id: str
    commit: str
    started: str
    status: str
    sentence: str
    link: str
    why: str


def build(results: Path, out: Path) -> Path:
    """Write the report of everything under `results` into `out`, replacing an earlier report. Returns its index.

    The old report stays until the new one is whole. Raises ValueError if `out` holds something else than a report, and
    SchemaError if the newest run was written by another version.
    """
    if out.exists() and not (out.is_dir() and ((out / MARKER).exists() or not any(out.iterdir()))):
        raise ValueError(f"{out} exists and is not a report; name an empty or new folder with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        _write(results, new, Shelf(new / "plots", out / "plots"))
        if out.exists():
            out.rename(Path(scratch) / "old")
        new.rename(out)
    return out / "index.html"


def _write(results: Path, site: Path, shelf: Shelf) -> None:
    folders = run_folders(results)
    night = load(folders[0]) if folders else Night(results / "runs", None, None, [], [], [], [], [], [], [])
    judged = verdict.latest(results)
    history = [_past(folder, results, i) for i, folder in enumerate(folders)]
    write_atomic(site / MARKER, b"written by motbench report; safe to delete\n")
    for name in STATIC:
        shutil.copyfile(TEMPLATES / name, site / name)
    _render(site / "index.html", night, judged, results, shelf, history)
    for folder, past in list(zip(folders, history, strict=True))[1 : PAGES + 1]:
        if not past.why:
            older = verdict.of(folder, results)
            _render(site / past.link, load(folder), older, results, shelf, history)


def _past(folder: Path, results: Path, age: int) -> Past:
    link = "index.html" if age == 0 else f"runs/{folder.name}.html" if age <= PAGES else ""
    try:
        judged = verdict.of(folder, results)
        run = read_json(folder / "run.json", Run)
    except SchemaError as error:
        return Past(folder.name, "", "", "not-measured", "", "", str(error))
    except (ValueError, OSError):
        return Past(folder.name, "", "", judged.status, judged.sentence, link, "")
    return Past(folder.name, run.provenance.commit, run.started, judged.status, judged.sentence, link, "")


def _render(path: Path, night: Night, judged: Verdict, results: Path, shelf: Shelf, history: list[Past]) -> None:
    """Write the two pages of one run into the site that `shelf` belongs to: the night, and its pictures."""
    site = shelf.new.parent
    root = "" if path.parent == site else "../"
    pictures = path.with_name(GOLDEN if not root else f"{path.stem}-{GOLDEN}")
    cards = gallery.cards(night, site)
    common = {
        "root": root,
        "night": night,
        "run": night.run,
        "verdict": judged,
        "exit_code": EXIT_CODES[judged.status],
        "pages": PAGES_OF_THE_SITE,
        "golden_page": str(pictures.relative_to(site)),
        "about_pictures": gallery.about(night.golden),
        "cards": cards,
    }
    _write_page(path, "page.html", common | _of_the_night(night, judged, results, shelf) | {"history": history})
    golden = {
        "choices": gallery.choices(night.golden),
        "filtered": gallery.FILTERS,
        "status": worst(judged.area("golden")),
        "headline": verdict.headline(judged.area("golden")),
        "bases": selftest.bases(night.golden),
        "detection": selftest.table(night.selftest),
    }
    _write_page(pictures, "golden.html", common | golden)


def _of_the_night(night: Night, judged: Verdict, results: Path, shelf: Shelf) -> dict[str, Any]:
    numbers = speed.fresh_numbers(results, night.run)[0] if night.run else []
    conformance_rows, parity_rows = page.conformance_rows(night.conformance), page.parity_rows(night.parity)
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
        "parity_plot": page.parity_plot(night.parity, shelf),
        "times": times,
        "never_timed": page.never_timed(night),
        "noise": page.noise(times),
        "values": page.values(night, numbers),
        "outside": page.outside(night.profile.outside if night.profile else []),
        "matters": words.percent(timing.MATTERS[night.run.provenance.environment.profile]) if night.run else "",
    }


def _write_page(path: Path, template: str, values: dict[str, Any]) -> None:
    here = {"here": path.name if not values["root"] else ""}
    write_atomic(path, _ENVIRONMENT.get_template(template).render(values | here).encode())


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"marks": MARKS, "anchors": ANCHORS}
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
