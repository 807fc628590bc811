"""Views that PyTorch's attention kernels may read are handed over as they are; others are copied."""

import pytest
import torch

from reference_impl.contract import on_16_bytes

BUFFER = torch.zeros(10, 4, 24, dtype=torch.float16)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(BUFFER, id="whole"),
        pytest.param(BUFFER[3:], id="later-rows"),
        pytest.param(BUFFER[:, 1:3], id="some-heads"),
        pytest.param(BUFFER[..., 8:16], id="aligned-columns"),
    ],
)
def test_an_aligned_view_is_not_copied(view: torch.Tensor) -> None:
    assert on_16_bytes(view) is view


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(BUFFER[..., 3:11], id="odd-offset"),
        pytest.param(torch.zeros(10, 4 * 24 + 5, dtype=torch.float16)[:, :96].view(10, 4, 24), id="odd-row-stride"),
    ],
)
def test_another_view_is_copied(view: torch.Tensor) -> None:
    copy = on_16_bytes(view)
    assert copy.is_contiguous()
    assert torch.equal(copy, view)
