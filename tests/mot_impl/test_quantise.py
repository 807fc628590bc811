"""Rows in fp8: the reference's values and scales, alone and behind a norm. Values are compared, never bits."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import mot_impl
import reference_impl
from benchmarks.harness.inputs import EPS
from mot_impl.quantise import CutBlock
from reference_impl.contract import FP8_MAX, QuantisedRows, Route

pytestmark = pytest.mark.usefixtures("poisoned")

OPS, REFERENCE = mot_impl.OPS, reference_impl.OPS
DTYPES = [torch.float32, torch.float16]
WIDTHS = [1, 7, 64, 130, 320, 3584, 18944]
"""Odd ones; of two parts, the second whole (320) or not (18944)."""

SCALES = {"own": None, "fixed": (0.004, 0.02)}
"""A fixed scale of the text expert that clamps every number beyond 1.8."""


@pytest.fixture
def numpy_may_overflow() -> Iterator[None]:
    """NumPy, in which the interpreter computes, tells of infinities that a GPU makes without a word."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shuffled(m: int, device: torch.device | str) -> Route:
    rows = torch.randperm(m, generator=torch.Generator().manual_seed(7))
    return Route(rows.to(device), m // 3)


def fixed(name: str, device: torch.device | str) -> Tensor | None:
    return None if SCALES[name] is None else torch.tensor(SCALES[name], device=device)


def assert_equal(ours: QuantisedRows, theirs: QuantisedRows) -> None:
    torch.testing.assert_close(ours.scale, theirs.scale, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(ours.values.float(), theirs.values.float(), rtol=0, atol=0, equal_nan=True)


def assert_close(ours: QuantisedRows, theirs: QuantisedRows, share: float) -> None:
    """The norm may be rounded otherwise: its scale by a roundoff, and few values by a code, 1/8 of it at most."""
    torch.testing.assert_close(ours.scale, theirs.scale, rtol=2**-7, atol=0)
    ours_wide, theirs_wide = ours.values.float(), theirs.values.float()
    torch.testing.assert_close(ours_wide, theirs_wide, rtol=1 / 8, atol=2**-9)
    assert (ours_wide != theirs_wide).float().mean() <= share


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scale", SCALES)
def test_rows_are_the_references(scale, width, dtype, device):
    x, route = normal(width, 17, width).to(device, dtype), shuffled(17, device)
    assert_equal(
        OPS.quantise_rows(x, route, fixed(scale, device)), REFERENCE.quantise_rows(x, route, fixed(scale, device))
    )


ROWS = {
    "zeros": lambda x: x.zero_(),
    "nan": lambda x: x[5:6].fill_(torch.nan),
    "infinite": lambda x: x[5:6].fill_(-torch.inf),
    "outlier": lambda x: x[5:6].mul_(2000),
    "tiny": lambda x: x.mul_(1e-7),
    "largest": lambda x: x[5:6].fill_(torch.finfo(x.dtype).max),
    "ties": lambda x: x.copy_(torch.arange(len(x)) * 2.0**-10),
}
"""What is made of one row of many."""


@pytest.mark.usefixtures("numpy_may_overflow")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("change", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("scale", SCALES)
def test_a_row_of_extremes_is_the_references_and_alters_no_other(scale, change, dtype, device):
    x, route = normal(0, 9, 130).to(device, dtype), shuffled(9, device)
    before = OPS.quantise_rows(x, route, fixed(scale, device))
    change(x[4])
    after = OPS.quantise_rows(x, route, fixed(scale, device))
    assert_equal(after, REFERENCE.quantise_rows(x, route, fixed(scale, device)))
    others = torch.arange(9, device=device) != 4
    assert torch.equal(after.values.float()[others], before.values.float()[others])


@pytest.mark.usefixtures("numpy_may_overflow")
@pytest.mark.parametrize("change", [torch.nan, torch.inf], ids=["nan", "infinite"])
@pytest.mark.parametrize("scale", SCALES)
def test_what_is_not_finite_is_nan_in_fp8(scale, change, device):
    x = normal(0, 3, 64).to(device)
    x[1, 9] = change
    found = OPS.quantise_rows(x, shuffled(3, device), fixed(scale, device))
    assert (found.values.float().isnan()[:, 9].tolist(), found.values.float().isnan()[[0, 2]].any().item()) == (
        [False, True, False],
        False,
    )


def test_values_beyond_a_fixed_scale_are_clamped(device):
    x = torch.tensor([[1e30, -1e30, 1.0]], device=device)
    found = OPS.quantise_rows(x, Route.all_text(1, device), torch.tensor([0.5, 1.0], device=device))
    assert found.values.float().tolist() == [[FP8_MAX, -FP8_MAX, 2.0]]


@pytest.mark.parametrize("m", [0, 1, 2, 17])
@pytest.mark.parametrize("scale", SCALES)
def test_any_number_of_rows(scale, m, device):
    x, route = normal(m, m, 64).to(device), shuffled(m, device)
    found = OPS.quantise_rows(x, route, fixed(scale, device))
    assert_equal(found, REFERENCE.quantise_rows(x, route, fixed(scale, device)))


def test_any_row_stride(device):
    x = normal(0, 9, 77).to(device)[:, 3:67]
    route = shuffled(9, device)
    assert_equal(OPS.quantise_rows(x, route), REFERENCE.quantise_rows(x.contiguous(), route))


APART = {
    "one_for_both": lambda device: torch.tensor([0.004], device=device).expand(2),
    "every_second": lambda device: torch.tensor([0.004, 9.0, 0.02, 9.0], device=device)[::2],
}
"""Fixed scales that do not lie side by side."""


@pytest.mark.parametrize("made", APART.values(), ids=APART.keys())
def test_fixed_scales_may_lie_apart(made, device):
    x, route = normal(0, 9, 64).to(device), shuffled(9, device)
    assert_equal(OPS.quantise_rows(x, route, made(device)), REFERENCE.quantise_rows(x, route, made(device)))


@pytest.mark.parametrize("made", APART.values(), ids=APART.keys())
def test_fixed_scales_of_a_norm_that_quantises_may_lie_apart(made, device):
    args = (normal(0, 9, 64).to(device), torch.ones(2, 64, device=device), shuffled(9, device), EPS, made(device))
    assert torch.equal(OPS.quantised_rms_norm(*args).scale, REFERENCE.quantised_rms_norm(*args).scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [7, 130, 3584])
@pytest.mark.parametrize("scale", SCALES)
def test_a_norm_that_quantises_is_the_references(scale, width, dtype, device):
    x, gain = normal(width, 17, width).to(device, dtype), (normal(1, 2, width) * 0.2 + 1).to(device, dtype)
    args = (x, gain, shuffled(17, device), EPS, fixed(scale, device))
    assert_close(OPS.quantised_rms_norm(*args), REFERENCE.quantised_rms_norm(*args), share=0.01)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [7, 130, 3584])
@pytest.mark.parametrize("scale", SCALES)
def test_a_residual_norm_that_quantises_is_the_references(scale, width, dtype, device):
    x, other = (normal(seed, 17, width).to(device, dtype) for seed in (0, 1))
    gain = (normal(2, 2, width) * 0.2 + 1).to(device, dtype)
    args = (x, other, gain, shuffled(17, device), EPS, fixed(scale, device))
    total, found = OPS.quantised_add_rms_norm(*args)
    expected, theirs = REFERENCE.quantised_add_rms_norm(*args)
    assert torch.equal(total, expected)
    assert_close(found, theirs, share=0.01)


def test_a_row_of_zeros_stays_zero_behind_a_norm(device):
    x = torch.zeros(3, 64, device=device)
    found = OPS.quantised_rms_norm(x, torch.ones(2, 64, device=device), shuffled(3, device), EPS)
    assert (found.values.float().abs().max().item(), found.scale.tolist()) == (0.0, [1.0, 1.0, 1.0])


def test_a_nan_spoils_its_own_row_behind_a_norm(device):
    x = normal(0, 5, 64).to(device)
    x[2, 3] = torch.nan
    gain = torch.ones(2, 64, device=device)
    found = OPS.quantised_rms_norm(x, gain, shuffled(5, device), EPS)
    assert found.values.float().isnan().any(-1).tolist() == [False, False, True, False, False]


def test_rows_keep_the_dtype_of_what_they_were_made_from(device):
    found = OPS.quantise_rows(normal(0, 3, 64).to(device, torch.float16), shuffled(3, device))
    assert found.dtype == torch.float16


@pytest.mark.parametrize(
    ("width", "cut"), [(3584, (4096, 0)), (18944, (16384, 4096)), (320, (256, 64)), (1, (1, 0)), (4096, (4096, 0))]
)
def test_a_row_is_cut_where_padding_would_be_much(width, cut):
    block = CutBlock.of(8208, width)
    assert (block.width, block.rest) == cut


REFUSED = {
    "too_wide": (lambda x: OPS.quantise_rows(x, Route.all_text(1, x.device)), "width is 32769 but quantise_rows takes"),
    "too_wide_norm": (
        lambda x: OPS.quantised_rms_norm(x, torch.ones(2, 32769, device=x.device), Route.all_text(1, x.device), EPS),
        "width is 32769 but a norm that quantises takes at most 16384",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_too_wide_a_row_is_refused(call, message, device):
    with pytest.raises(NotImplementedError, match=message):
        call(torch.zeros(1, 32769, device=device))


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1026, 8208])
@pytest.mark.parametrize("width", [3584, 18944])
@pytest.mark.parametrize("scale", SCALES)
def test_rows_are_the_references_at_bagels_sizes(scale, width, m):
    x, route = normal(0, m, width).to("cuda", torch.bfloat16), Route.image_then_text(m - 2, 2, "cuda")
    args = (x, route, fixed(scale, "cuda"))
    assert_equal(OPS.quantise_rows(*args), REFERENCE.quantise_rows(*args))


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1026, 8208])
@pytest.mark.parametrize("scale", SCALES)
def test_a_residual_norm_that_quantises_is_the_references_at_bagels_sizes(scale, m):
    x, other = (normal(seed, m, 3584).to("cuda", torch.bfloat16) for seed in (0, 1))
    gain = (normal(2, 2, 3584) * 0.2 + 1).to("cuda", torch.bfloat16)
    args = (x, other, gain, Route.image_then_text(m - 2, 2, "cuda"), EPS, fixed(scale, "cuda"))
    (total, found), (expected, theirs) = OPS.quantised_add_rms_norm(*args), REFERENCE.quantised_add_rms_norm(*args)
    assert torch.equal(total, expected)
    assert_close(found, theirs, share=0.01)
