"""Names on the command line become values, or one line that says which names there are."""

import pytest
import torch

from mot_impl.tiles import Tile, TileTable, TuneFile, TuneKey
from motbench.implementation import one_thread_on_a_cpu, resolve, untuned


def test_names_become_ops_device_and_dtype() -> None:
    ops, device, dtype = resolve("reference", "cpu", "bfloat16")
    assert (ops.name, device, dtype) == ("reference", torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("nope", "cpu", "float32"), "implementation 'nope' is not reference, fused or package.module:OPS"),
        (("reference", "tpu", "float32"), "device 'tpu' is unknown; use one of cpu, cuda"),
        (("reference", "cpu", "float64"), "dtype 'float64' is unknown; use one of float32, bfloat16, float16"),
    ],
    ids=["implementation", "device", "dtype"],
)
def test_unknown_name_is_refused(names: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(*names)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="torch sees no GPU; use --device cpu"):
        resolve("reference", "cuda", "float32")


@pytest.mark.parametrize(("device", "threads"), [("cpu", 1), ("cuda", 2)])
def test_only_a_cpu_gets_one_thread(device: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        one_thread_on_a_cpu(torch.device(device))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


ENTRY = (TuneKey("linear", "bfloat16", 4608, 3584), 1026, Tile(128, 256, 64, 8, 3))
TABLE = TileTable((TuneFile("tuned", "NVIDIA_H100_80GB_HBM3.json", "NVIDIA_H100_80GB_HBM3", (ENTRY,)),))


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("NVIDIA H200", torch.bfloat16), ("NVIDIA H100 80GB HBM3", torch.float16)],
    ids=["device", "dtype"],
)
def test_tiles_that_nobody_tuned_are_said_with_the_cure(device: str, dtype: torch.dtype) -> None:
    told = untuned(TABLE, device, dtype)
    assert (device in told, f"--dtype {str(dtype)[6:]}" in told) == (True, True)


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("NVIDIA H100 80GB HBM3", torch.bfloat16), ("NVIDIA H800", torch.bfloat16), ("NVIDIA H200", torch.float32)],
    ids=["tuned", "the-chip-was", "float32-has-none"],
)
def test_nothing_is_said_of_other_tiles(device: str, dtype: torch.dtype) -> None:
    assert untuned(TABLE, device, dtype) == ""
