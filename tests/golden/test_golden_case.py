"""Golden cases on disk: the committed ones, and what is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import reference_impl
from bagel.pipeline import BagelPipeline
from bagel.transforms import Resize
from benchmarks.harness import golden_case, images, precision
from benchmarks.harness.environment import repository_root
from benchmarks.harness.golden_case import read_case, read_cases
from benchmarks.harness.golden_limits import Limits, judge
from tests.golden.conftest import CHECKPOINT, EXACT, FACTS, REQUEST, approve, change

COMMITTED = read_cases(repository_root() / "golden_images")
each_committed = pytest.mark.parametrize("case", COMMITTED, ids=lambda case: case.name)


@each_committed
def test_a_committed_case_has_the_approved_golden(case: golden_case.GoldenCase) -> None:
    assert case.expected() is not None
    assert case.stale() == ""


@each_committed
def test_a_committed_case_has_limits_for_every_dtype(case: golden_case.GoldenCase) -> None:
    for kind in ("parity", "drift"):
        assert set(precision.DTYPES) <= case.limits[kind].keys() <= set(precision.NAMES)


@pytest.mark.parametrize("name", ["float32-fp8", "bfloat16-fp8", "float32-int8", "bfloat16-int8"])
def test_quantised_layers_have_limits_on_two_cases_of_each_task(name: str) -> None:
    tasks = sorted(
        case.request.task for case in COMMITTED if name in case.limits["parity"] and name in case.limits["drift"]
    )
    assert tasks == ["img2img", "img2img", "t2i", "t2i"]


def test_eight_cases_of_each_task_and_two_short_ones_are_committed() -> None:
    tasks = [case.request.task for case in COMMITTED]
    assert min(tasks.count("t2i"), tasks.count("img2img")) >= 8
    assert sum(case.interpreter for case in COMMITTED) >= 2


def test_no_golden_passes_for_another() -> None:
    """The negative control: pictures of two cases, where sizes allow the comparison."""
    goldens = {case.name: (case, case.expected()) for case in COMMITTED}
    compared = [
        judge(images.compare(a, b).values, case.limits_of("drift", dtype), {})[0]
        for name, (case, a) in goldens.items()
        for other, (_, b) in goldens.items()
        for dtype in case.limits["drift"]
        if name != other and a is not None and b is not None and a.shape == b.shape
    ]
    assert len(compared) >= 6
    assert set(compared) == {"regressed"}


def request(**fields: Any) -> dict[str, Any]:
    return {"request": {**REQUEST, **fields}}


def limits(parity: Any = None, **drift: Any) -> dict[str, Any]:
    return {"limits": {"parity": {"float32": parity or EXACT}, "drift": {"float32": drift or EXACT}}}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        pytest.param([], "format is 'list' but must be 1", id="no-object"),
        pytest.param({"format": 2}, "format is 2 but must be 1", id="other-format"),
        pytest.param({"surprise": 1}, "unknown fields", id="unknown-field"),
        pytest.param(request(surprise=1), "unknown fields", id="unknown-request-field"),
        pytest.param(request(task="t2v"), "'t2v' is not one of", id="unknown-task"),
        pytest.param(request(seed="1"), "'1' is not int", id="seed-is-text"),
        pytest.param(request(height=None), "text-to-image has both", id="half-a-size"),
        pytest.param(request(task="img2img"), "image-to-image neither", id="edit-with-a-size"),
        pytest.param(
            request(guidance={**REQUEST["guidance"], "renorm_type": "none"}),  # type: ignore[dict-item]
            "'none' is not one of",
            id="unknown-renorm",
        ),
        pytest.param({"limits": {"parity": {}}}, "must be for parity and drift", id="no-drift"),
        pytest.param(limits(ssim=-1), "limit of ssim is -1.0 but must be", id="negative-limit"),
        pytest.param(limits(psnr=None), "no metric has a limit", id="no-limit"),
        pytest.param(limits(sharpness=1), "unknown fields", id="unknown-metric"),
        pytest.param(limits(latent_absmax=1), "a golden holds no latents", id="drift-of-latents"),
    ],
)
def test_a_wrong_case_is_one_line_that_names_the_file(unapproved: Path, facts: Any, says: str) -> None:
    path = unapproved / "case.json"
    path.write_text(json.dumps({**FACTS, **facts} if isinstance(facts, dict) else facts))
    with pytest.raises(ValueError, match=says) as refusal:
        read_case(unapproved)
    assert str(refusal.value).startswith(f"{path} is no golden case")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("field", ["exercises", "interpreter", "request", "limits", "provenance"])
def test_a_missing_field_is_named(unapproved: Path, field: str) -> None:
    (unapproved / "case.json").write_text(json.dumps({k: v for k, v in FACTS.items() if k != field}))
    with pytest.raises(ValueError, match=f"lacks '{field}'"):
        read_case(unapproved)


def test_a_file_that_is_no_json_is_named(unapproved: Path) -> None:
    (unapproved / "case.json").write_text("{")
    with pytest.raises(ValueError, match=r"case\.json is no golden case"):
        read_case(unapproved)


def test_a_folder_without_a_case_is_not_passed_over(approved: Path) -> None:
    (approved.parent / "lost").mkdir()
    with pytest.raises(FileNotFoundError, match=r"lost/case\.json does not exist"):
        read_cases(approved.parent)


def test_an_unknown_name_lists_the_known_ones(approved: Path) -> None:
    with pytest.raises(ValueError, match=r"golden case large is unknown; .* has small"):
        read_cases(approved.parent, ["large"])


def test_no_case_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no golden case"):
        read_cases(tmp_path)


def test_without_a_golden_nothing_is_expected(unapproved: Path) -> None:
    assert read_case(unapproved).expected() is None


def test_a_lost_golden_is_missing(approved: Path) -> None:
    (approved / "expected.png").unlink()
    assert read_case(approved).expected() is None


def one_pixel(picture: Image.Image) -> Image.Image:
    changed = np.array(picture)
    changed[3, 4, 1] ^= 1
    return Image.fromarray(changed)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param(one_pixel, r"expected\.png is 32x32x3:.* but 32x32x3:.* was approved", id="one-pixel"),
        pytest.param(lambda p: p.resize((48, 32)), "is 48 x 32 but the case asks for 32 x 32", id="another-size"),
        pytest.param(lambda p: p.convert("RGBA"), "without alpha", id="alpha"),
    ],
)
def test_a_golden_that_is_not_the_approved_one_is_refused(
    damage: Callable[[Callable[[Image.Image], Image.Image]], Path],
    fault: Callable[[Image.Image], Image.Image],
    says: str,
) -> None:
    with pytest.raises(ValueError, match=says):
        read_case(damage(fault)).expected()


def test_a_golden_that_nobody_approved_is_refused(approved: Path) -> None:
    change(approved, provenance=None)
    with pytest.raises(ValueError, match="but nothing was approved"):
        read_case(approved).expected()


@pytest.mark.parametrize("input_", ["missing", "jpeg"])
def test_an_input_that_cannot_be_judged_is_refused(edit: Path, input_: str) -> None:
    path = edit / "input.png"
    path.unlink()
    if input_ == "jpeg":
        Image.new("RGB", (32, 32)).save(path, format="JPEG")
    with pytest.raises((FileNotFoundError, ValueError), match=r"input\.png"):
        read_case(edit).image_request()


def test_without_rules_of_its_own_a_case_resizes_as_its_checkpoint_does(edit: Path) -> None:
    pipeline = BagelPipeline.from_checkpoint(CHECKPOINT, reference_impl.OPS)
    pipeline = dataclasses.replace(pipeline, vae_resize=Resize(32, 16, 16), vit_resize=Resize(28, 14, 14))
    change(edit, vit_resize=None)
    fitted = read_case(edit).fitted(pipeline)
    assert (fitted.vae_resize, fitted.vit_resize) == (Resize(48, 32, 16), Resize(28, 14, 14))


def test_a_changed_request_makes_the_golden_stale(approved: Path) -> None:
    change(approved, seed=2)
    assert "since the golden was approved case.json's request is" in read_case(approved).stale()


def test_a_changed_input_makes_the_golden_stale(edit: Path) -> None:
    approve(edit)
    with Image.open(edit / "input.png") as picture:
        one_pixel(picture).save(edit / "input.png")
    assert "since the golden was approved input.png is 32x48x3:" in read_case(edit).stale()


def test_changed_limits_leave_the_golden_fresh(approved: Path) -> None:
    change(approved, limits=limits(psnr=40.0)["limits"])
    assert read_case(approved).stale() == ""


def test_another_checkpoint_makes_the_golden_stale(approved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = approved.parent / "checkpoint"
    folder.mkdir()
    (folder / "ema.safetensors").write_bytes(b"other")
    monkeypatch.setattr(golden_case.GoldenCase, "checkpoint", folder)
    assert f"checkpoint {REQUEST['checkpoint']} is" in read_case(approved).stale()


def test_another_definition_of_the_metrics_makes_the_golden_stale(
    approved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "DEFINITION", images.DEFINITION + 1)
    assert "the metrics' definition is 2 but was 1" in read_case(approved).stale()


@pytest.mark.parametrize("name", ["ema.safetensors", "other-name"])
def test_the_fingerprint_of_a_checkpoint_covers_names_and_contents(tmp_path: Path, name: str) -> None:
    hashes = set()
    for folder, file, content in (("a", "ema.safetensors", b"1"), ("b", name, b"2" if name[0] == "e" else b"1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_bytes(content)
        hashes.add(golden_case.checkpoint_sha256(tmp_path / folder))
    assert len(hashes) == 2


LIMITS = Limits(absmax=1.0, ssim=0.99).given


@pytest.mark.parametrize(
    ("values", "limits", "status", "says"),
    [
        pytest.param({"absmax": 1.0, "ssim": 0.99}, LIMITS, "pass", "", id="at-the-limit"),
        pytest.param({"absmax": 2.0, "ssim": 1.0}, LIMITS, "regressed", "absmax 2 is over its limit 1", id="over"),
        pytest.param({"absmax": 0.0, "ssim": 0.9}, LIMITS, "regressed", "ssim 0.9 is under its limit 0.99", id="under"),
        pytest.param({"absmax": 2.0, "ssim": 0.9}, LIMITS, "regressed", "1; ssim 0.9 is under", id="both-are-named"),
        pytest.param({"absmax": 0.0}, LIMITS, "not-measured", "no number for ssim", id="missing"),
        pytest.param({"absmax": 0.0, "ssim": 1.0, "mean": float("nan")}, LIMITS, "not-measured", "mean: why", id="nan"),
        pytest.param({"absmax": 2.0, "ssim": float("nan")}, LIMITS, "regressed", "absmax 2", id="over-and-nan"),
        pytest.param({"absmax": 0.0}, None, "not-measured", "sets no limits for this dtype", id="no-limits"),
        pytest.param({"psnr": float("inf")}, {"psnr": 40.0}, "pass", "", id="infinite-psnr"),
    ],
)
def test_a_judgement_has_a_reason(
    values: dict[str, float], limits: dict[str, float] | None, status: str, says: str
) -> None:
    found, reason = judge(values, limits, {"mean": "why"})
    assert found == status
    assert says in reason
    assert bool(reason) == (status != "pass")
