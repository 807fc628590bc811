"""Names on the command line become values, or one line that says which names there are."""

import pytest
import torch

from motbench.implementation import one_thread_on_a_cpu, resolve


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
