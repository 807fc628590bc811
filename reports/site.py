"""One folder of static HTML that opens from disk: tonight, its pictures, trends and speed; earlier runs in runs/."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.harness.records import Run, SchemaError, read_json, write_atomic
from reports import dashboard, render, verdict
from reports.night import Night, load, run_folders
from reports.plots import Shelf
from reports.render import Past, Site
from reports.since import Judged

PAGES = 30
"""Earlier runs that get pages of their own; older ones are listed."""

MARKER = ".motbench-report"
"""A file that says a folder was written here and may be replaced."""


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


def _write(results: Path, new: Path, shelf: Shelf) -> None:
    folders = run_folders(results)
    night = load(folders[0]) if folders else Night(results / "runs", None, None, [], [], [], [], [], [], [])
    known: list[Judged] = []
    history = []
    for age, folder in enumerate(folders):
        past, one = _past(folder, results, age)
        history.append(past)
        if one is not None:
            known.append(one)
    found, why = dashboard.read(results)
    site = Site(new, results, shelf, history, known, found, why)
    write_atomic(new / MARKER, b"written by motbench report; safe to delete\n")
    render.static(site)
    render.run(site, new / "index.html", night, verdict.latest(results))
    render.trends(site)
    render.speed_pages(site, night)
    verdicts = {one.run_id: one.verdict for one in known}
    for folder, past in list(zip(folders, history, strict=True))[1 : PAGES + 1]:
        if not past.why:
            render.run(site, new / past.link, load(folder), verdicts[folder.name])


def _past(folder: Path, results: Path, age: int) -> tuple[Past, Judged | None]:
    link = "index.html" if age == 0 else f"runs/{folder.name}.html" if age <= PAGES else ""
    try:
        judged = verdict.of(folder, results)
        run = read_json(folder / "run.json", Run)
    except SchemaError as error:
        return Past(folder.name, "", "", "not-measured", "", "", str(error)), None
    except (ValueError, OSError):
        past = Past(folder.name, "", "", judged.status, judged.sentence, link, "")
        return past, Judged(folder.name, "", judged)
    commit = run.provenance.commit
    past = Past(folder.name, commit, run.started, judged.status, judged.sentence, link, "")
    return past, Judged(folder.name, commit, judged)
