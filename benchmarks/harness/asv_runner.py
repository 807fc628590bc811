"""Run asv on one commit for the main job, with its records in the run's folder."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import environment, logged, profiles
from benchmarks.harness.records import Series, Status, Timing, Value, read_lines, write_json


def run(root: Path, results: Path, folder: Path, bench: str = "", commit: str = "HEAD") -> tuple[Status, str]:
    """Measure a commit of the repository at `root`; ("pass", "") or ("not-measured", why).

    results/asv grows by asv's own JSON; of a dirty tree (the ruler itself may be changed) that goes to folder/asv and
    is never a baseline. folder gets timing.jsonl and values.jsonl, one line per process, asv.conf.json, which says how
    asv was called, and asv.log, what it printed. `bench` is a regular expression that selects benchmarks, as asv's
    --bench.
    """
    root, results, folder = root.resolve(), results.resolve(), folder.resolve()
    commit = environment.git(root, "rev-parse", commit)
    write_json(folder / "asv.conf.json", configuration(root, results, folder))
    command = [sys.executable, "-u", "-m", "asv", "run", "--config", str(folder / "asv.conf.json"), "--show-stderr"]
    command += ["--record-samples", f"{commit}^!", *(["--bench", bench] if bench else [])]
    # asv changes into the config file's folder; the path lets it find the plugin from there.
    code = logged.run(command, folder / "asv.log", os.environ | {"PYTHONPATH": str(root)})
    measured = _measured(folder, commit)
    missing = [name for name in _expected(bench) if name not in measured]
    if missing:
        return "not-measured", f"{len(missing)} series have no result, {missing[0]} first; asv.log says why"
    if code:
        return "not-measured", f"asv: {logged.why(code, folder / 'asv.log')}"
    return "pass", ""


def publish(root: Path, results: Path) -> str:
    """Build asv's own site of `results`/asv in `results`/asv-html; why there is none, or nothing. Loads no torch here.

    asv's pages take their libraries from public networks and do not open from disk, so they are an extra.
    """
    root, results = root.resolve(), results.resolve()
    if not any(results.glob("asv/*/*-*.json")):
        return "there are no asv results"
    with tempfile.TemporaryDirectory(dir=results, prefix=".publish-") as scratch:
        config = Path(scratch) / "asv.conf.json"
        write_json(config, configuration(root, results, Path(scratch)) | {"results_dir": str(results / "asv")})
        command = [sys.executable, "-m", "asv", "publish", "--no-pull", "--config", str(config)]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
        )
    said = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else f"asv publish: {said[-1] if said else f'exit code {done.returncode}'}"


def configuration(root: Path, results: Path, folder: Path) -> dict[str, Any]:
    """The repository's asv.conf.json, for being read from another folder: absolute paths, and the run's own records."""
    from asv import util

    config: dict[str, Any] = util.load_json(str(root / "asv.conf.json"), js_comments=True)
    return config | {
        "repo": str(root),
        "benchmark_dir": str(root / "benchmarks"),
        "env_dir": str(root / ".asv/env"),
        "results_dir": str((folder if environment.changed_files(root) else results) / "asv"),
        "html_dir": str(results / "asv-html"),
        "records_dir": str(folder),
        "records_exact": True,
    }


def _expected(bench: str) -> list[str]:
    profile = environment.here().profile
    names = [series.label for series in profiles.declared(profile).expected]
    return [name for name in names if re.search(bench, name)]


def _measured(folder: Path, commit: str) -> set[str]:
    timings, _ = read_lines(folder / "timing.jsonl", Timing)
    values, _ = read_lines(folder / "values.jsonl", Value)
    lines: list[Timing | Value] = [*timings, *values]
    return {Series(one.benchmark, one.params).label for one in lines if one.commit == commit}
