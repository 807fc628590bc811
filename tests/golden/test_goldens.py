"""Judging: what a check says of right, wrong and missing pictures."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mot_impl
import reference_impl
from bagel.pipeline import GeneratedImage
from benchmarks.harness import goldens, images
from benchmarks.harness.golden_case import read_case
from benchmarks.harness.goldens import Made, compare, selected
from benchmarks.harness.records import Golden, append_line, read_lines
from reference_impl.contract import Experts, MoTOps, Route
from tests.golden.conftest import change, plan

REFERENCE = reference_impl.OPS


def with_linear(change_weights: Callable[[Experts], Experts]) -> MoTOps:
    return dataclasses.replace(
        REFERENCE, name="faulty", linear=lambda x, experts, route: REFERENCE.linear(x, change_weights(experts), route)
    )


UNBIASED = with_linear(lambda experts: Experts(experts.weight))
NAN = with_linear(lambda experts: Experts(experts.weight * torch.nan))


def check(folder: Path, judged: goldens.Plan) -> list[Golden]:
    return list(goldens.check([read_case(folder)], judged, folder.parents[1] / "out"))


def test_the_reference_agrees_with_its_golden(approved: Path) -> None:
    (record,) = check(approved, plan())
    assert (record.against, record.status, record.reason, record.identical) == ("golden", "pass", "", True)


def test_the_fused_kernels_agree_with_reference_and_golden(approved: Path) -> None:
    parity, drift = check(approved, plan("fused", mot_impl.OPS))
    assert [(record.against, record.status) for record in (parity, drift)] == [
        ("reference", "pass"),
        ("golden", "pass"),
    ]


def test_parity_knows_the_latents_of_every_update(approved: Path) -> None:
    change(approved, steps=3)
    parity, drift = check(approved, plan("fused", mot_impl.OPS))
    assert [(error.field, error.step) for error in parity.latents] == [("x_t", 0), ("x_t", 1), ("v_t", 0), ("v_t", 1)]
    assert parity.metrics["latent_relative_l2"] == max(e.relative_l2 for e in parity.latents if e.field == "x_t") > 0
    assert drift.latents == []


def test_a_dropped_bias_fails_both_ways_and_says_what_to_type(approved: Path) -> None:
    records = check(approved, plan("my.kernels:OPS", UNBIASED))
    assert [record.status for record in records] == ["regressed", "regressed"]
    assert all("absmax" in record.reason and "over its limit 1" in record.reason for record in records)
    assert records[0].reproduce == (
        "motbench golden check --case small --impl my.kernels:OPS --device cpu --dtype float32"
    )


def test_expected_actual_and_difference_are_drawn(approved: Path) -> None:
    record = check(approved, plan("my.kernels:OPS", UNBIASED))[1]
    out = approved.parents[1] / "out"
    drawn = {name: images.read_png(out / path) for name, path in record.pictures.items()}
    expected, actual = (drawn[name].astype(int) for name in ("expected", "actual"))
    assert (drawn["expected"] == images.read_png(approved / "expected.png")).all()
    assert (drawn["difference"] == abs(actual - expected) * record.amplified).all()
    assert drawn["side by side"].shape[1] > 3 * 32


def test_a_small_difference_is_amplified(approved: Path) -> None:
    parity, _ = check(approved, plan("jittered", with_linear(lambda e: Experts(e.weight * 1.003, e.bias))))
    assert parity.metrics["absmax"] < 64
    assert parity.amplified > 1


def test_pictures_that_are_not_finite_fail(approved: Path) -> None:
    records = check(approved, plan("nan", NAN))
    assert {record.status for record in records} == {"regressed"}
    assert "no picture was made: the decoded picture holds 3072 NaN or infinite values" in records[0].reason
    assert records[0].pictures.keys() == {"expected"}


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError])
def test_a_kernel_that_raises_is_regressed(approved: Path, kind: type[Exception]) -> None:
    def linear(*_: object) -> torch.Tensor:
        raise kind("no such tile")

    records = check(approved, plan("raises", dataclasses.replace(REFERENCE, name="raises", linear=linear)))
    assert [record.status for record in records] == ["regressed", "regressed"]
    assert "no such tile" in records[0].reason


def test_a_kernel_without_the_dtype_is_refused(approved: Path) -> None:
    def linear(*_: object) -> torch.Tensor:
        raise NotImplementedError("float32 only")

    with pytest.raises(NotImplementedError, match="float32 only"):
        check(approved, plan("refuses", dataclasses.replace(REFERENCE, name="refuses", linear=linear)))


def test_without_a_golden_drift_is_not_measured_but_drawn(unapproved: Path) -> None:
    (record,) = check(unapproved, plan())
    assert record.status == "not-measured"
    assert "there is no golden" in record.reason
    assert "motbench golden accept small --reason" in record.reason
    assert record.pictures.keys() == {"actual"}


def test_an_approved_picture_that_is_gone_is_restored_from_git_not_accepted_anew(approved: Path) -> None:
    (approved / "expected.png").unlink()
    (record,) = check(approved, plan())
    assert record.status == "not-measured"
    assert record.reason.endswith("git checkout -- golden_images/small/expected.png")


def test_a_stale_golden_is_not_measured(approved: Path) -> None:
    change(approved, seed=2)
    (record,) = check(approved, plan())
    assert record.status == "not-measured"
    assert "since the golden was approved" in record.reason


def test_a_dtype_without_limits_is_not_measured(approved: Path) -> None:
    (record,) = check(approved, plan(dtype=torch.bfloat16))
    assert (record.status, record.limits) == ("not-measured", {})
    assert "sets no limits for this dtype" in record.reason


def test_a_bad_golden_is_refused_before_any_picture_is_made(approved: Path) -> None:
    bad = Path(shutil.copytree(approved, approved.parent / "bad"))
    with Image.open(bad / "expected.png") as picture:
        picture.save(bad / "expected.png", format="JPEG")
    out = approved.parents[1] / "out"
    with pytest.raises(ValueError, match=r"bad/expected\.png is not a PNG but JPEG"):
        list(goldens.check([read_case(approved), read_case(bad)], plan(), out))
    assert not out.exists()


def check_all(folders: list[Path], judged: goldens.Plan) -> list[tuple[str, str, str]]:
    """Of each record the case, what it was judged against, and its status; its reason beside what is not a pass."""
    found = goldens.check_all([read_case(folder) for folder in folders], judged, folders[0].parents[1] / "out")
    return [(one.case, one.against, " ".join((one.status, one.reason)).strip()) for one in found]


def test_at_night_a_bad_golden_is_its_own_record_and_the_others_go_on(approved: Path) -> None:
    bad = Path(shutil.copytree(approved, approved.parent / "bad"))
    with Image.open(bad / "expected.png") as picture:
        picture.save(bad / "expected.png", format="JPEG")
    drift, other = check_all([bad, approved], plan())
    assert drift[2].startswith("not-measured ")
    assert drift[2].count("bad/expected.png is not a PNG but JPEG") == 1
    assert other == ("small", "golden", "pass")


def test_at_night_a_bad_golden_leaves_parity(approved: Path) -> None:
    (approved / "expected.png").write_bytes(b"no picture")
    parity, drift = check_all([approved], plan("fused", mot_impl.OPS))
    assert parity == ("small", "reference", "pass")
    assert drift[2].startswith("not-measured ")


def test_at_night_a_bad_input_blames_no_kernel(edit: Path) -> None:
    (edit / "input.png").write_bytes(b"no picture")
    parity, drift = check_all([edit], plan("fused", mot_impl.OPS))
    assert {parity[2].split(" ")[0], drift[2].split(" ")[0]} == {"not-measured"}
    assert "input.png" in parity[2]


@pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError, KeyError])
def test_at_night_a_kernel_that_raises_is_regressed_and_the_others_go_on(approved: Path, kind: type[Exception]) -> None:
    calls: list[int] = []

    def linear(x: torch.Tensor, experts: Experts, route: Route) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise kind("no such tile")
        return REFERENCE.linear(x, experts, route)

    other = Path(shutil.copytree(approved, approved.parent / "other"))
    faulty = dataclasses.replace(REFERENCE, name="faulty", linear=linear)
    *first, third, fourth = check_all([approved, other], plan("my.kernels:OPS", faulty))
    assert [(case, against) for case, against, _ in first] == [("small", "reference"), ("small", "golden")]
    assert all(said.startswith(f"regressed no picture was made: {kind.__name__}: ") for _, _, said in first)
    assert (third, fourth) == (("other", "reference", "pass"), ("other", "golden", "pass"))


def test_an_edit_is_judged_too(edit: Path) -> None:
    (record,) = check(edit, plan())
    assert (record.task, record.status) == ("img2img", "not-measured")
    assert images.read_png(edit.parents[1] / "out" / record.pictures["actual"]).shape == (32, 48, 3)


def test_a_record_carries_limits_versions_and_provenance_through_json(approved: Path) -> None:
    (record,) = check(approved, plan())
    append_line(approved / "golden.jsonl", record)
    (back,), _ = read_lines(approved / "golden.jsonl", Golden)
    assert back.limits["absmax"] == 1.0
    assert back.metric_versions.keys() == back.metrics.keys()
    assert back.golden_provenance["approved by"] == "Ada <ada@example.org>"


def picture(height: int = 32, width: int = 32) -> images.RGB:
    return np.zeros((height, width, 3), np.uint8)


def test_a_picture_of_another_size_fails() -> None:
    found = compare(Made(picture()), Made(picture(width=48)), {"absmax": 1.0})
    assert (found.status, found.reason) == (
        "regressed",
        "the actual picture is 48 x 32 but 32 x 32 is expected; sizes must agree",
    )


@pytest.mark.parametrize(("updates", "status"), [(8, "regressed"), (7, "pass")])
def test_an_update_too_many_fails_whatever_the_picture_says(updates: int, status: str) -> None:
    found = compare(Made(picture(), updates=7), Made(picture(), updates=updates), {"absmax": 1.0})
    said = "8 updates were made but 7 are asked for" if updates == 8 else ""
    assert (found.status, found.reason) == (status, said)


def test_latents_of_another_shape_fail() -> None:
    a, b = (Made(picture(), {"x_t": np.ones((n, 4, 8))}) for n in (2, 3))
    assert compare(a, b, {"absmax": 1.0}).reason.startswith("x_t is (3, 4, 8) but must be (2, 4, 8)")


def test_latents_are_those_after_each_update() -> None:
    x_t, final = torch.tensor([0.0, 1.0]).reshape(2, 1, 1), torch.full((1, 1), 2.0)
    result = GeneratedImage(Image.new("RGB", (32, 32)), x_t, x_t, final, torch.zeros(3, 32, 32), None)
    assert goldens.made_of(result).latents["x_t"].flatten().tolist() == [1.0, 2.0]


def test_a_picture_with_alpha_fails() -> None:
    x = torch.zeros(1, 4, 8)
    result = GeneratedImage(Image.new("RGBA", (32, 32)), x, x, x[0], torch.zeros(3, 32, 32), None)
    with pytest.raises(ValueError, match="mode RGBA but must be RGB without alpha"):
        goldens.made_of(result)


@pytest.mark.parametrize(
    ("impl", "device", "count"),
    [
        pytest.param("reference", "cpu", 1, id="reference-gets-all"),
        pytest.param("fused", "cpu", 0, id="interpreted-gets-the-short-ones"),
        pytest.param("fused", "cuda", 1, id="compiled-gets-all"),
        pytest.param("my.kernels:OPS", "cpu", 1, id="third-party-gets-all"),
    ],
)
def test_long_cases_are_kept_from_the_interpreter(unapproved: Path, impl: str, device: str, count: int) -> None:
    change(unapproved, interpreter=False)
    assert len(selected([read_case(unapproved)], impl, torch.device(device))) == count


def test_file_names_hold_nothing_but_plain_letters(approved: Path) -> None:
    for path in check(approved, plan("../../my kernels:OPS", UNBIASED))[0].pictures.values():
        assert path.startswith("pictures/small-.._.._my_kernels_OPS-float32-against-reference-")


def test_a_committed_case_is_what_it_was(tmp_path: Path) -> None:
    """One committed case from end to end, with both implementations."""
    case = read_case(Path(__file__).parents[2] / "golden_images" / "t2i-few-updates")
    records = list(goldens.check([case], plan("fused", mot_impl.OPS), tmp_path))
    assert [record.status for record in records] == ["pass", "pass"], json.dumps([r.reason for r in records])
