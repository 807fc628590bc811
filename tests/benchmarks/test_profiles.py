import pytest

from benchmarks.harness import profiles
from reports import timing

PROFILES = ("cpu", "gpu")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_series_is_either_expected_or_outside_with_a_reason(profile):
    declared = profiles.declared(profile)
    everything = sum(len(list(benchmark.combinations())) for benchmark in profiles.SUITE.values())
    assert len(declared.expected) + len(declared.outside) == everything
    assert all(series.reason for series in declared.outside)
    assert not any(series.reason for series in declared.expected)


def test_cpu_records_no_fused_time():
    expected = profiles.declared("cpu").expected
    assert not any(series.params.get("impl") == "fused" for series in expected)


@pytest.mark.parametrize("profile", PROFILES)
def test_quality_is_expected_everywhere(profile):
    names = {series.benchmark for series in profiles.declared(profile).expected}
    assert {"quality.track_largest_difference", "quality.track_ssim"} <= names


def test_gpu_measures_both_implementations_at_every_bagel_shape():
    linear = [series.params for series in profiles.declared("gpu").expected if series.benchmark.startswith("linear")]
    assert {(params["impl"], params["shape"]) for params in linear} == {
        (impl, shape) for impl in profiles.IMPLS for shape in profiles.BAGEL_SHAPES
    }


def test_combinations_are_in_the_order_of_asv():
    benchmark = profiles.Benchmark("a.track_b", "seconds", {"x": ("1", "2"), "y": ("3", "4")})
    assert [tuple(params.values()) for params in benchmark.combinations()] == [
        ("1", "3"),
        ("1", "4"),
        ("2", "3"),
        ("2", "4"),
    ]


def test_a_night_has_enough_processes_to_call_a_change():
    assert profiles.ROUNDS >= timing.MIN_PROCESSES


def test_a_comparison_of_commits_leaves_the_baselines_out() -> None:
    compared = [one for one in profiles.compared("gpu") if one.benchmark.startswith("full_size.")]
    assert {one.params["impl"] for one in compared} == {"fused"}


def test_a_comparison_of_commits_measures_no_memory() -> None:
    assert {profiles.SUITE[one.benchmark].unit for one in profiles.compared("cpu")} == {"seconds"}
