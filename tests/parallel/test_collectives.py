"""What the collectives do, and that a rank that fails or does not come holds up nobody."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORLDS = [(size, rank) for size in (2, 3, 4) for rank in range(size)]
every_rank = pytest.mark.parametrize(("size", "rank"), WORLDS, ids=[f"{rank} of {size}" for size, rank in WORLDS])


@every_rank
def test_rows_that_do_not_divide_evenly_are_gathered_in_order(results: Path, size: int, rank: int) -> None:
    joined = load_file(results / f"numbers-{size}-{rank}.safetensors")["joined"]
    assert torch.equal(joined, torch.arange(10.0).view(5, 2))


@every_rank
def test_rank_0_decides(results: Path, size: int, rank: int) -> None:
    assert int(load_file(results / f"numbers-{size}-{rank}.safetensors")["first"]) == 100


def test_a_rank_that_fails_does_not_hang_the_other(start_ranks: Callable, tmp_path: Path) -> None:
    waiting, failed = start_ranks("gone", 2, tmp_path)
    assert (failed.code, failed.stderr.strip()) == (2, "motbench: rank 1 has bad input")
    assert waiting.code == 2
    assert "motbench: rank 0 of 2 waited in vain for another" in waiting.stderr


def test_a_rank_that_does_not_come_is_waited_for_no_longer_than_the_timeout(
    start_ranks: Callable, tmp_path: Path
) -> None:
    start = time.monotonic()
    waiting, _ = start_ranks("late", 2, tmp_path)
    assert time.monotonic() - start < 60
    assert waiting.code == 2
    assert "motbench: rank 0 of 2 waited in vain for another" in waiting.stderr
