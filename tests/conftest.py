"""Shared fixtures. The interpreter is chosen here, once, before anything imports mot_impl."""

import os
from collections.abc import Iterator

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tests share few cores, and threads that wait for each other would take most of a small product's time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what the machine or the command did not ask for: gpu tests without a GPU, others without their `-m`."""
    chosen = config.getoption("-m")
    kept, dropped = [], []
    for item in items:
        needs_gpu = item.get_closest_marker("gpu") is not None
        unasked = any(item.get_closest_marker(name) and name not in chosen for name in ("slow", "browser"))
        leave = (needs_gpu and not HAS_GPU) or unasked
        (dropped if leave else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
