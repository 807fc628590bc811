"""How large is the report of a long history, and how long does it take? `python -m tests.reports.measure FOLDER`.

Writes 31 nights of a GPU with 900 comparisons and 44 pictures each, and a history of 200 commits x 200 series, builds
the site, and prints seconds and bytes; with chromium on the path, also how long pages take to load, the least of
five. docs/report.md has the figures.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.harness.records import Golden, Parity, read_lines, write_json
from reports import site, verdict
from tests.reports import history
from tests.reports.conftest import GPU, Results

NIGHTS, COMPARISONS, PICTURES, COMMITS, SERIES = 31, 900, 44, 200, 200
TIMER = (
    "<script>addEventListener('load', () => "
    "{ document.documentElement.dataset.took = Math.round(performance.now()) })</script>"
)


def main(folder: Path) -> None:
    """Make, build, measure."""
    results = Results(folder / "results")
    for day in range(NIGHTS):
        night(results, day)
    start = time.perf_counter()
    write_json(results.path / "trend.json", history.judged(COMMITS, SERIES))
    print(f"history judged and written: {time.perf_counter() - start:.1f} s (motbench trend, not the report)")
    for what in ("first", "again"):
        wall, busy = time.perf_counter(), time.process_time()
        index = site.build(results.path, folder / "site")
        print(f"built {what}: {time.perf_counter() - wall:.1f} s, of them {time.process_time() - busy:.1f} s of CPU")
    files = [path for path in index.parent.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    print(f"size: {total / 1e6:.2f} MB in {len(files)} files")
    if browser := shutil.which("chromium"):
        for page in ("index.html", "golden.html", "trends.html"):
            least = min(took(browser, index.parent / page) for _ in range(5))
            print(f"{page}: {(index.parent / page).stat().st_size / 1e6:.2f} MB, loaded in {least} ms")


def night(results: Results, day: int) -> None:
    """One night with as many records as a GPU leaves."""
    path = results.night(day % 28 + 1, f"{day:040x}", GPU, judge=False)
    parity, _ = read_lines(path / "parity.jsonl", Parity)
    many = [replace(parity[i % len(parity)], case=f"case {i}") for i in range(COMPARISONS)]
    results.rewrite(path, "parity.jsonl", many)
    golden, _ = read_lines(path / "golden.jsonl", Golden)
    shown = [replace(golden[i % len(golden)], case=f"case-{i // 4}", dtype=f"dtype{i % 4}") for i in range(PICTURES)]
    results.rewrite(path, "golden.jsonl", shown)
    write_json(path / "verdict.json", verdict.judge(path, results.path))


def took(browser: str, page: Path) -> int:
    """Milliseconds from the start of navigation to the load event, all scripts run."""
    timed = page.with_name(f"timed-{page.name}")
    timed.write_text(page.read_text().replace("<head>", f"<head>{TIMER}", 1))
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        done = subprocess.run([*command, "--dump-dom", f"file://{timed}"], capture_output=True, text=True, check=True)
    timed.unlink()
    (found,) = re.findall(r'data-took="(\d+)"', done.stdout)
    return int(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
