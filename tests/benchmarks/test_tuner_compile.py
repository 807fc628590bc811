"""Compiling in other processes, though this one interprets; and compilers that fail, or for which no time is left."""

import dataclasses

import pytest
import torch

from benchmarks.harness.tuner_compile import Job, compile_all
from mot_impl.compiled import variant
from mot_impl.tiles import Tile
from reference_impl.contract import Problem

PROBLEM = Problem("linear", 50, 64, 96, torch.bfloat16, torch.device("cuda"))


def job(tile: Tile, problem: Problem = PROBLEM) -> Job:
    return Job(variant(problem, tile, False), problem, tile, False, 90)


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def test_each_job_comes_back_with_what_it_takes_or_why_it_failed():
    tile = Tile(16, 32, 32, 4, 2)
    fits, fails = job(tile), job(tile, dataclasses.replace(PROBLEM, op="rms_norm"))
    found = {built.variant: built for built in compile_all([fits, fails], 1)}
    assert found[fits.variant].compiled.spilled_bytes == 0
    assert found[fails.variant].error == "op 'rms_norm' has no tiles; name linear or gated_linear"


def test_without_time_every_job_says_so():
    jobs = [job(Tile(16, 32, 32, 4, stages)) for stages in (2, 3)]
    assert [built.error for built in compile_all(jobs, 1, limit_s=0.0)] == ["no time was left to compile it"] * 2


def test_no_job_needs_no_process():
    assert list(compile_all([], 2)) == []
