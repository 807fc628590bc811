"""The statistics against SciPy's own tests, and Holm's procedure against a worked example."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from reports import stats

RNG = np.random.default_rng(3)
PAIRED = RNG.normal(0.01, 0.02, 9)
NOW, THEN = np.exp(RNG.normal(0.02, 0.02, 5)), np.exp(RNG.normal(0, 0.02, 4))


def paired() -> stats.Estimate:
    found = stats.paired(PAIRED.tolist())
    assert found is not None
    return found


def test_paired_p_is_scipys() -> None:
    assert paired().p == pytest.approx(scipy_stats.ttest_1samp(PAIRED, 0).pvalue)


def test_paired_interval_is_scipys() -> None:
    expected = scipy_stats.ttest_1samp(PAIRED, 0).confidence_interval(0.99)
    assert np.log(paired().interval(0.01)) == pytest.approx([expected.low, expected.high])


def test_upper_bound_is_scipys_one_sided_interval() -> None:
    expected = scipy_stats.ttest_1samp(PAIRED, 0, alternative="less").confidence_interval(0.95)
    assert math.log(paired().upper(0.05)) == pytest.approx(expected.high)


def test_unpaired_p_is_scipys() -> None:
    found = stats.unpaired(NOW.tolist(), THEN.tolist())
    assert found is not None
    assert found.p == pytest.approx(scipy_stats.ttest_ind(np.log(NOW), np.log(THEN)).pvalue)


@pytest.mark.parametrize("values", [[], [0.1]], ids=["none", "one"])
def test_fewer_than_two_rounds_have_no_error(values: list[float]) -> None:
    assert stats.paired(values) is None


def test_a_lone_process_has_no_error() -> None:
    assert stats.unpaired([1.0], [1.0, 1.1]) is None


@pytest.mark.parametrize(("mean", "p"), [(0.0, 1.0), (0.1, 0.0)], ids=["equal", "different"])
def test_without_noise_any_difference_is_certain(mean: float, p: float) -> None:
    assert stats.Estimate(mean, 0.0, 5).p == p


@pytest.mark.parametrize("n", [3, 6, 12, 40])
def test_a_change_of_the_visible_size_is_called_with_the_promised_power(n: int) -> None:
    estimate = stats.Estimate(0.0, 0.02, n - 1)
    visible = math.log1p(estimate.visible(0.001, 1e-9, 0.9)) / 0.02
    critical = scipy_stats.t.isf(0.0005, n - 1)
    assert scipy_stats.nct.sf(critical, n - 1, visible) == pytest.approx(0.9, abs=1e-4)


def test_what_matters_must_be_passed_to_be_visible() -> None:
    assert stats.Estimate(0.0, 1e-6, 5).visible(0.001, 0.05, 0.9) == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(
    ("p", "levels"),
    [
        pytest.param([0.01], [0.05], id="one"),
        pytest.param([0.001, 0.5], [0.025, 0.05], id="a-rejection-frees-the-next"),
        pytest.param([0.5, 0.001], [0.05, 0.025], id="order-of-series-does-not-matter"),
        pytest.param([0.03, 0.04, 0.001], [0.025, 0.025, 0.05 / 3], id="after-the-first-failure-all-stop"),
        pytest.param([], [], id="none"),
    ],
)
def test_holm(p: list[float], levels: list[float]) -> None:
    assert stats.holm(p, 0.05) == pytest.approx(levels)
