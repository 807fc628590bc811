"""One folder of static HTML that opens from disk: tonight, its pictures, trends and speed; earlier runs in runs/."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.harness.records import Run, SchemaError, read_json, write_atomic
from reports import dashboard, night, render, verdict
from reports.night import Night, run_folders
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
    first = verdict.latest(results)
    links = _links(folders, first.run_id)
    read = [_past(folder, results, links.get(folder.name, ""), first) for folder in folders]
    known = [one for _, one in read if one is not None]
    tonight = {folder.name for folder in night.tonight(folders)}
    found, why = dashboard.read(results)
    history = [replace(past, tonight=past.run_id in tonight) for past, _ in read]
    site = Site(new, results, shelf, history, known, found, why)
    write_atomic(new / MARKER, b"written by motbench report; safe to delete\n")
    render.static(site)
    nothing = Night(results / "runs", None, None, [], [], [], [], [], [], [])
    shown = night.load(results / "runs" / first.run_id) if folders else nothing
    render.run(site, new / "index.html", shown, first)
    render.trends(site)
    render.speed_pages(site, shown)
    for one in known:
        if links.get(one.run_id, "").startswith("runs/"):
            render.run(site, new / links[one.run_id], night.load(results / "runs" / one.run_id), one.verdict)


def _links(folders: list[Path], first: str) -> dict[str, str]:
    """Run id -> its page: the first screen for one run, pages of their own for the newest others."""
    others = [folder.name for folder in folders if folder.name != first][:PAGES]
    return {first: "index.html"} | {name: f"runs/{name}.html" for name in others}


def _past(folder: Path, results: Path, link: str, first: verdict.Verdict) -> tuple[Past, Judged | None]:
    try:
        judged = first if folder.name == first.run_id else verdict.of(folder, results)
        run = read_json(folder / "run.json", Run)
    except SchemaError as error:
        return Past(folder.name, "", "", "", "not-measured", "", "", str(error)), None
    except (ValueError, OSError):
        past = Past(folder.name, "", "", "", judged.status, judged.sentence, link, "")
        return past, Judged(folder.name, "", judged)
    commit, environment = run.provenance.commit, run.provenance.environment
    machine = environment.gpu or environment.cpu
    past = Past(folder.name, commit, run.started, machine, judged.status, judged.sentence, link, "")
    return past, Judged(folder.name, commit, judged)
