"""What limits belong to: device, attention, torch."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.harness.stack import Stack, here


def test_the_name_is_a_plain_file_name() -> None:
    assert Stack("NVIDIA H100 80GB HBM3", "sdpa", "2.11.0+cu130").name == "nvidia-h100-80gb-hbm3_sdpa_2.11.0+cu130"


def test_a_cpu_is_known_by_its_vector_instructions() -> None:
    found = here(torch.device("cpu"))
    assert found.device == f"cpu {torch.backends.cpu.get_cpu_capability()}"
    assert found.torch == torch.__version__


def test_attention_is_what_pytorch_may_choose() -> None:
    free = here(torch.device("cpu")).attention
    with sdpa_kernel(SDPBackend.MATH):
        forced = here(torch.device("cpu")).attention
    assert (free, forced) == ("sdpa", "sdpa math")
