"""Who else computes on the GPU: told by a library that answers as NVML does."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.harness import gpu_clock, nvml

LIBRARY = """
import os
from types import SimpleNamespace

class NVMLError(Exception):
    pass

NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
PIDS, REFUSES = [], []

def nvmlInit(): pass
def nvmlDeviceGetHandleByUUID(uuid): return uuid
def nvmlDeviceGetComputeRunningProcesses(handle):
    if "processes" in REFUSES:
        raise NVMLError("not permitted")
    return [SimpleNamespace(pid=pid, usedGpuMemory=1) for pid in PIDS]
def nvmlSystemGetProcessName(pid):
    if "names" in REFUSES:
        raise NVMLError("no such process")
    return b"/usr/bin/trainer"
def nvmlDeviceGetClockInfo(handle, which): return 1980
def nvmlDeviceGetTemperature(handle, which): return 45
def nvmlDeviceGetPowerUsage(handle): return 400000
def nvmlDeviceGetCurrentClocksThrottleReasons(handle):
    if "reasons" in REFUSES:
        raise NVMLError("not supported")
    return 4
"""
ME = os.getpid()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A pynvml of its own on the path, and a device that has an id."""
    import torch

    (tmp_path / "pynvml.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    import pynvml

    yield pynvml
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)


def test_alone_on_the_gpu_is_nobody_else(library: SimpleNamespace) -> None:
    library.PIDS[:] = [ME]
    assert nvml.others() == []


def test_another_process_is_named(library: SimpleNamespace) -> None:
    library.PIDS[:] = [ME, 4_000_000]
    assert nvml.others() == ["pid 4000000 (trainer)"]


def test_who_started_this_process_is_no_stranger(library: SimpleNamespace) -> None:
    library.PIDS[:] = [ME, os.getppid()]
    assert nvml.others() == []


def test_a_real_process_beside_this_one_is_a_stranger(library: SimpleNamespace) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        library.PIDS[:] = [ME, child.pid]
        assert nvml.others() == [f"pid {child.pid} (trainer)"]
        child.communicate(b"\n")


def test_a_process_without_a_name_counts(library: SimpleNamespace) -> None:
    library.PIDS[:], library.REFUSES[:] = [ME, 4_000_000], ["names"]
    assert nvml.others() == ["pid 4000000 (unknown)"]


@pytest.mark.parametrize("refuses", [[], ["processes"]], ids=["no-list", "refused"])
def test_what_cannot_be_seen_is_not_nobody(library: SimpleNamespace, refuses: list[str]) -> None:
    library.REFUSES[:] = refuses
    assert nvml.others() is None


def test_without_the_package_others_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    assert nvml.others() is None


@pytest.mark.parametrize(
    ("pids", "found"),
    [
        pytest.param([7], [], id="me-under-another-number"),
        pytest.param([7, 8], [8], id="one-of-two-is-me"),
        pytest.param([1, 7], [7], id="me-and-another"),
    ],
)
def test_in_a_container_one_process_is_this_one(pids: list[int], found: list[int]) -> None:
    assert nvml.strangers(pids, mine=[1]) == found


def test_readings_come_through_the_same_library(library: SimpleNamespace) -> None:
    read = gpu_clock.watch()
    assert read is not None
    assert read() == gpu_clock.Reading(1980, 45, 400.0, 4)


def test_a_card_that_does_not_tell_has_no_clock(library: SimpleNamespace) -> None:
    library.REFUSES[:] = ["reasons"]
    assert gpu_clock.watch() is None


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        pytest.param((None, None), None, id="never-seen"),
        pytest.param(([], None), [], id="seen-once"),
        pytest.param((["a"], ["b", "a"]), ["a", "b"], id="before-and-after"),
    ],
)
def test_looks_before_and_after_are_joined(looks: tuple[list[str] | None, ...], found: list[str] | None) -> None:
    assert gpu_clock.joined(*looks) == found


@pytest.mark.gpu
def test_a_real_process_on_a_real_gpu_is_seen() -> None:
    import torch

    torch.ones(1, device="cuda")
    alone = nvml.others()
    if alone is None:
        pytest.skip("the driver lists no processes here")
    work = "import torch; x = torch.ones(1, device='cuda'); torch.cuda.synchronize(); print('on', flush=True); input()"
    command = [sys.executable, "-P", "-c", work]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seen = nvml.others()
        child.communicate(b"\n")
    assert seen is not None
    assert len(seen) == len(alone) + 1
