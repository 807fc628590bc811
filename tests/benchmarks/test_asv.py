"""The real asv, through the overlay, over a throw-away repository of three commits.

The packages under test come from that repository, the benchmarks from this checkout.
"""

import fcntl
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys

import pytest

from benchmarks.harness import asv_runner, environment, profiles
from benchmarks.harness.records import Timing, read_lines

ROOT = environment.repository_root()
SERIES = ("'qkv'", "'reference'", "'small'", "'hot'")
BENCH = re.escape(f"linear.track_seconds({', '.join(SERIES)})")


def git(folder, *args):
    return environment.git(folder, *args)


def commit(repository, message):
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--allow-empty", f"--message={message}")
    return git(repository, "rev-parse", "HEAD")


def asv(repository, *args):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "asv", *args, "--config", str(repository / "asv.conf.json")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Three commits: no package at all; the reference as it is; a reference whose `linear` raises."""
    folder = tmp_path_factory.mktemp("asv") / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    for name, text in (("user.name", "t"), ("user.email", "t@example.org"), ("commit.gpgsign", "false")):
        git(folder, "config", name, text)
    config = json.loads((ROOT / "asv.conf.json").read_text()) | {"benchmark_dir": str(ROOT / "benchmarks")}
    (folder / "asv.conf.json").write_text(json.dumps(config))
    (folder / ".gitignore").write_text("results\n.asv\nbenchmarks\n")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    commit(folder, "empty")
    shutil.copytree(ROOT / "reference_impl", folder / "reference_impl", ignore=shutil.ignore_patterns("__pycache__"))
    commit(folder, "reference")
    linear = folder / "reference_impl/linear.py"
    linear.write_text(linear.read_text().replace("check_linear(x, experts, route)\n", "raise RuntimeError('broken')\n"))
    commit(folder, "broken")
    return folder


@pytest.fixture(scope="module")
def finished(repository):
    return asv(repository, "run", "ALL", "--interleave-rounds", "--bench", BENCH, "--show-stderr")


def result(repository, finished, revision):
    """asv's (value, samples) of the one series that was run, at one commit."""
    hash_ = git(repository, "rev-parse", revision)
    (file,) = repository.glob(f"results/asv/*/{hash_[:8]}-overlay-py*.json")
    document = json.loads(file.read_text())
    row = dict(zip(document["result_columns"], document["results"]["linear.track_seconds"], strict=False))
    if row["result"] is None:
        return None
    (index,) = [i for i, params in enumerate(itertools.product(*row["params"])) if params == SERIES]
    return row["result"][index]


def lines(repository):
    folder = min((repository / "results/asv-records").iterdir())  # the first asv of this file
    records, broken = read_lines(folder / "timing.jsonl", Timing)
    assert not broken
    return records


def test_measured_commit_has_a_median_in_seconds(repository, finished):
    assert 0 < result(repository, finished, "HEAD~1") < 1


def test_commit_without_packages_is_not_applicable(repository, finished):
    assert math.isnan(result(repository, finished, "HEAD~2"))


def test_commit_that_raises_has_failed(repository, finished):
    assert result(repository, finished, "HEAD") is None
    assert "RuntimeError: broken" in finished.stdout


def test_failed_benchmark_shows_in_the_exit_code(finished):
    assert finished.returncode == 2


def test_each_process_leaves_one_line_and_its_round(repository, finished):
    measured = git(repository, "rev-parse", "HEAD~1")
    assert [(line.commit, line.round) for line in lines(repository)] == [
        (measured, round_) for round_ in range(profiles.ROUNDS)
    ]


def test_lines_are_of_different_processes(repository, finished):
    assert len({line.pid for line in lines(repository)}) == profiles.ROUNDS


def test_line_names_its_parameters(repository, finished):
    assert lines(repository)[0].params == {"layer": "qkv", "impl": "reference", "shape": "small", "cache": "hot"}


def test_machine_is_described_in_the_project(repository, finished):
    (file,) = repository.glob("results/asv/*/machine.json")
    here = environment.here()
    assert json.loads(file.read_text())["torch"] == here.torch
    assert file.parent.name.endswith(here.fingerprint[:6])


def test_publish_makes_pages(repository, finished):
    assert asv(repository, "publish").returncode == 0
    assert (repository / "results/asv-html/index.html").exists()


def test_the_report_publishes_asv_s_own_site(repository, finished, tmp_path):
    shutil.copytree(repository / "results" / "asv", tmp_path / "asv")
    assert asv_runner.publish(repository, tmp_path) == ""
    assert (tmp_path / "asv-html" / "index.html").is_file()
    assert (tmp_path / "asv-html" / "graphs").is_dir()


def test_without_results_there_is_no_site_and_a_reason(repository, tmp_path):
    assert asv_runner.publish(repository, tmp_path) == "there are no asv results"
    assert list(tmp_path.iterdir()) == []


def test_what_asv_says_is_the_reason(repository, finished, tmp_path):
    shutil.copytree(repository / "results" / "asv", tmp_path / "asv")
    (tmp_path / "asv" / "benchmarks.json").write_text("{")
    assert asv_runner.publish(repository, tmp_path).startswith("asv publish: ")


def test_continuous_compares_two_commits(repository, finished):
    done = asv(repository, "continuous", "HEAD~2", "HEAD~1", "--bench", BENCH)
    assert "NOT SIGNIFICANTLY CHANGED" in done.stdout
    assert done.returncode == 0


def test_unknown_revision_is_refused(repository, finished):
    assert asv(repository, "run", "no-such-branch..HEAD", "--bench", BENCH).returncode != 0


def test_second_asv_in_one_checkout_is_refused(repository, finished):
    (lock,) = repository.glob(".asv/env/*/lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = asv(repository, "run", "HEAD^!", "--bench", BENCH)
    assert done.returncode == 1
    assert "another asv is running" in done.stdout


def test_main_job_is_told_what_has_no_result(repository, finished, tmp_path):
    status, reason = asv_runner.run(repository, tmp_path, tmp_path / "run", BENCH)
    assert status == "not-measured"
    assert reason.startswith("1 series have no result, linear.track_seconds('qkv'")


@pytest.fixture
def clone(repository, tmp_path):
    """A checkout of the commit whose reference works."""
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(repository), str(folder))
    git(folder, "checkout", "--quiet", "HEAD~1")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    return folder


def test_main_job_passes_and_finds_its_records(clone, tmp_path):
    assert asv_runner.run(clone, tmp_path / "results", tmp_path / "run", BENCH) == ("pass", "")
    records, _ = read_lines(tmp_path / "run/timing.jsonl", Timing)
    assert len(records) == profiles.ROUNDS
    assert list((tmp_path / "results/asv").glob("*/*-overlay-py*.json"))


def test_dirty_tree_is_not_stored_among_the_results(clone, tmp_path):
    results, folder = tmp_path / "results", tmp_path / "run"
    assert asv_runner.configuration(clone, results, folder)["results_dir"] == str(results / "asv")
    (clone / "new").touch()
    assert asv_runner.configuration(clone, results, folder)["results_dir"] == str(folder / "asv")
