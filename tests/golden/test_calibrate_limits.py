"""Known-good figures -> limits and rates: the arithmetic, and the files that hold them."""

import math
from pathlib import Path

import pytest

from benchmarks.harness import calibrate_files
from benchmarks.harness.calibrate_files import Figures, Population, Runs
from benchmarks.harness.calibrate_limits import FLOORS, Spread, alarms, factor, limits, p_value, seen
from benchmarks.harness.environment import here as environment
from benchmarks.harness.golden_limits import distance, of_distance, score
from benchmarks.harness.stack import Stack

STACK = Stack("cpu AVX2", "sdpa", "2.0")


def figures(values: list[float], prompt: str = "a cat", faults: Runs | None = None) -> Figures:
    """Known-good runs that differ in one metric of parity, latent_relative_l2, by these distances."""
    good = Runs([f"run {i}" for i in range(len(values))], {"latent_relative_l2": values}, {})
    return Figures(prompt, "request", "checkpoint", "picture", good, faults or Runs([], {}, {}))


def population(**cases: dict[str, Figures]) -> Population:
    return Population(STACK, 1, "now", "0" * 40, environment(), cases)


@pytest.mark.parametrize("name", ["absmax", "psnr", "ssim_worst_tile", "latent_cosine"])
def test_a_distance_leads_back_to_its_metric(name: str) -> None:
    assert of_distance(name, distance(name, 0.875)) == pytest.approx(0.875)


def test_equal_pictures_are_at_distance_zero() -> None:
    assert (distance("psnr", math.inf), distance("ssim", 1.0), distance("absmax", 0.0)) == (0, 0, 0)


def test_the_score_is_the_largest_share_of_any_limit() -> None:
    assert score({"absmax": 1.0, "ssim": 0.97}, {"absmax": 4.0, "ssim": 0.96}) == pytest.approx(0.75)


def test_without_a_number_there_is_no_score() -> None:
    assert score({"absmax": math.nan}, {"absmax": 4.0}) is None


def spread(*values: float, prompt: str = "a cat", **others: list[float]) -> Spread:
    """Runs that differ in latent_relative_l2 by these distances, and in other metrics if any are given."""
    return Spread(prompt, {"latent_relative_l2": list(values), **others})


def test_a_run_is_measured_by_the_farthest_of_the_others() -> None:
    assert spread(1e-3, 2e-3, 3e-3).ratios() == pytest.approx([1 / 3, 2 / 3, 1.5])


def test_two_farthest_runs_are_measured_by_each_other() -> None:
    assert spread(1e-3, 3e-3, 3e-3).ratios()[1:] == [1, 1]


def test_a_ratio_is_that_of_the_worst_metric() -> None:
    assert spread(2e-3, 1e-3, mean=[0.1, 0.4]).ratios() == pytest.approx([2, 4])


def test_a_distance_under_the_floor_sets_no_factor() -> None:
    assert spread(FLOORS["latent_relative_l2"] / 4, 0.0).ratios() == [0, 0]


def test_the_score_of_a_run_is_the_share_of_limits_that_the_others_set() -> None:
    assert spread(1e-3, 2e-3, 3e-3).scores(1.5) == pytest.approx([1e-3 / 4.5e-3, 2e-3 / 4.5e-3, 1])


def test_one_run_alone_has_no_ratio() -> None:
    assert (spread(1e-3).ratios(), spread(1e-3).scores(2.0)) == ([], [])


def test_with_few_runs_the_largest_ratio_is_the_factor() -> None:
    assert factor([0.5, 1.4, 0.9]) == 1.4


def test_with_many_runs_one_in_400_may_be_outside() -> None:
    assert factor([1 + i / 1000 for i in range(799)]) == pytest.approx(1.797)  # the 798th of 799, so 2 in 800


def test_a_limit_is_never_nearer_than_the_farthest_run() -> None:
    assert factor([0.5, 0.9]) == 1


def test_no_runs_give_no_factor() -> None:
    with pytest.raises(ValueError, match="no known-good runs"):
        factor([])


@pytest.mark.parametrize(
    ("name", "reached", "limit"),
    [
        pytest.param("latent_relative_l2", 4.11e-7, 6.2e-7, id="a-distance-is-rounded-up"),
        pytest.param("ssim_worst_tile", 4.1e-4, 0.99938, id="a-similarity-down"),
        pytest.param("psnr", 0.5, 50.62, id="psnr-down"),
    ],
)
def test_a_limit_has_two_digits_and_is_rounded_away_from_zero(name: str, reached: float, limit: float) -> None:
    found = limits({name: reached}, 1.5)[name]
    assert found == pytest.approx(limit, rel=1e-9)
    assert distance(name, found) >= 1.5 * reached


def test_a_limit_is_at_least_the_floor_and_the_floor_is_not_multiplied() -> None:
    assert limits({"absmax": 1.0, "share_over_0": 0.0}, 1.9) == {"absmax": 1.0, "share_over_0": 0.003}


def test_a_similarity_has_no_limit_under_zero() -> None:
    assert limits({"ssim_worst_tile": 0.9}, 2.0) == {"ssim_worst_tile": 0.0}


def test_a_prompt_has_no_part_in_the_factor_that_judges_it() -> None:
    loud, quiet, still = spread(3e-3, 1e-3), spread(1e-3, 1e-3, prompt="a dog"), spread(1e-3, 1e-3, prompt="a sea")
    runs, prompts = alarms([loud, quiet, still])
    assert (runs.seen, runs.runs, prompts.seen, prompts.runs) == (1, 6, 1, 3)


def test_one_prompt_measures_no_false_alarms() -> None:
    runs, _ = alarms([spread(3e-3, 1e-3)])
    assert (runs.runs, math.isnan(runs.high)) == (0, True)


@pytest.mark.parametrize(("value", "p"), [(2.0, 0.2), (1.0, 0.6), (0.0, 1.0)])
def test_p_counts_the_judged_run_and_ties(value: float, p: float) -> None:
    assert p_value(value, [0.5, 1.0, 1.0, 0.1]) == p


def test_a_fault_without_a_picture_is_seen() -> None:
    faults = Runs(["fine", "far", "none"], {}, {"absmax": [1.0, 9.0, math.nan]})
    assert seen(faults, {"parity": {}, "drift": {"absmax": 2.0}}) == [False, True, True]


def test_figures_come_back_from_their_file(tmp_path: Path) -> None:
    written = population(cat={"float32": figures([1e-3, 2e-3])})
    calibrate_files.write(tmp_path / "known_good-x.json", written)
    assert calibrate_files.read(tmp_path / "known_good-x.json") == written


def test_a_list_of_figures_is_one_line_of_the_file(tmp_path: Path) -> None:
    calibrate_files.write(tmp_path / "figures.json", population(cat={"float32": figures([0.5, 0.25])}))
    assert '"latent_relative_l2": [0.5, 0.25]' in (tmp_path / "figures.json").read_text()


def test_new_figures_replace_those_of_their_case_and_dtype_only() -> None:
    old = population(cat={"float32": figures([1.0]), "float16": figures([2.0])}, dog={"float32": figures([3.0])})
    joined = old.joined(population(cat={"float32": figures([4.0])}))
    assert joined.cases["cat"]["float32"] == figures([4.0])
    assert (joined.cases["cat"]["float16"], joined.cases["dog"]["float32"]) == (figures([2.0]), figures([3.0]))


def test_figures_of_another_stack_are_not_joined() -> None:
    other = Population(Stack("H100", "sdpa", "2.0"), 1, "now", "", environment(), {})
    with pytest.raises(ValueError, match=r"cpu-avx2_sdpa_2\.0.*measure them again"):
        other.joined(population())


def test_a_second_measurement_is_compared_run_by_run() -> None:
    old, new = (population(cat={"float32": figures(values)}) for values in ([1.0, 2.0], [1.0, 1.5, 9.0]))
    assert calibrate_files.differences(old, new) == {"cat float32": 0.25}
