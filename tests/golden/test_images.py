"""Metrics: known values, what each planted fault does to them, and files that are refused."""

import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from benchmarks.harness import images
from benchmarks.harness.images import RGB, compare


def gray(picture: np.ndarray) -> RGB:
    return np.repeat(picture[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def photo() -> RGB:
    return np.ascontiguousarray(data.astronaut()[:256, 128:384])


@pytest.fixture(scope="module")
def camera() -> tuple[RGB, RGB]:
    """The pair of scikit-image's own SSIM test: seed 5, sigma 20."""
    clean = data.camera()
    noise = np.random.RandomState(5).randn(*clean.shape)
    return gray(clean), gray(np.clip(clean + 20.0 * noise, 0, 255).astype(np.uint8))


def test_ssim_has_scikit_images_value(camera: tuple[RGB, RGB]) -> None:
    assert compare(*camera).values["ssim"] == pytest.approx(0.3579642, abs=1e-6)


def test_ssim_agrees_with_wangs_program(camera: tuple[RGB, RGB]) -> None:
    assert compare(*camera).values["ssim"] == pytest.approx(0.3579591, abs=1e-4)


def test_psnr_follows_its_formula(camera: tuple[RGB, RGB]) -> None:
    clean, noisy = (picture.astype(np.float64) for picture in camera)
    assert compare(*camera).values["psnr"] == pytest.approx(10 * math.log10(255**2 / np.mean((clean - noisy) ** 2)))


def test_flip_is_symmetric(camera: tuple[RGB, RGB]) -> None:
    forth, back = compare(*camera).values, compare(*reversed(camera)).values
    assert [forth[name] for name in images.FLIP_NAMES] == [back[name] for name in images.FLIP_NAMES]


def test_equal_pictures_have_no_difference(photo: RGB) -> None:
    found = compare(photo, photo.copy())
    best = {"psnr": math.inf, "ssim": 1.0, "ssim_worst_tile": 1.0}
    assert found.identical
    assert found.values == {name: best.get(name, 0.0) for name in found.values}


def test_every_metric_names_what_computed_it(photo: RGB) -> None:
    found = compare(photo, photo)
    assert found.versions.keys() == found.values.keys()
    assert all(any(digit in version for digit in "0123456789") for version in found.versions.values())


def test_differences_do_not_wrap() -> None:
    black, white = (np.full((16, 16, 3), value, np.uint8) for value in (0, 255))
    assert compare(white, black).values["absmax"] == 255


def test_bias_keeps_its_sign_per_channel_and_its_size_overall() -> None:
    light, dark = (np.full((16, 16, 3), value, np.uint8) for value in (9, 4))
    found = compare(light, dark).values
    assert [found[name] for name in ("bias_red", "bias_blue", "bias", "bias_block")] == [-5, -5, 5, 5]


def test_a_pixel_counts_by_its_most_different_channel() -> None:
    expected, actual = np.zeros((2, 16, 16, 3), np.uint8)
    actual[0, 0] = (1, 5, 3)
    assert compare(expected, actual).values["mean"] == 5 / 256
    assert compare(expected, actual).values["share_over_2"] == 1 / 256


def brighter(picture: np.ndarray) -> np.ndarray:
    return picture + 4


def red_gain(picture: np.ndarray) -> np.ndarray:
    return picture * np.array([1.03, 1.0, 0.97])


def wrong_tile(picture: np.ndarray) -> np.ndarray:
    out = picture.copy()
    out[80:112, 80:112] = out[:32, :32]
    return out


def blurred_tile(picture: np.ndarray) -> np.ndarray:
    out = picture.copy()
    out[64:128, 64:128] = gaussian_filter(picture, (1.5, 1.5, 0))[64:128, 64:128]
    return out


def stripes(picture: np.ndarray) -> np.ndarray:
    out = picture.copy()
    out[::16] += 12
    return out


def shifted(picture: np.ndarray) -> np.ndarray:
    return np.roll(picture, 1, axis=1)


def blurred(picture: np.ndarray) -> np.ndarray:
    return gaussian_filter(picture, (0.7, 0.7, 0))


def rough(picture: np.ndarray) -> np.ndarray:
    return picture + gaussian_filter(np.random.default_rng(1).normal(size=picture.shape), (2, 2, 0)) * 28


def dithered(picture: np.ndarray) -> np.ndarray:
    return picture + np.random.default_rng(2).integers(-1, 2, picture.shape)


def damaged(photo: RGB, fault: object) -> dict[str, float]:
    return compare(photo, np.clip(fault(photo.astype(float)).round(), 0, 255).astype(np.uint8)).values  # type: ignore[operator]


@pytest.fixture(scope="module")
def benign(photo: RGB) -> dict[str, float]:
    return damaged(photo, dithered)


@pytest.mark.parametrize(
    ("fault", "seen_by"),
    [
        pytest.param(brighter, ["mean", "bias", "bias_block", "psnr", "flip_mean"], id="brighter-by-4"),
        pytest.param(red_gain, ["bias_block", "absmax", "psnr", "flip_p99"], id="red-and-blue-gain-of-3-percent"),
        pytest.param(wrong_tile, ["absmax", "ssim_worst_tile", "flip_worst_tile", "bias_block"], id="wrong-32x32-tile"),
        pytest.param(blurred_tile, ["absmax", "p99_9", "ssim_worst_tile", "flip_worst_tile"], id="blurred-64x64-tile"),
        pytest.param(stripes, ["absmax", "share_over_8", "psnr"], id="every-16th-row"),
        pytest.param(shifted, ["absmax", "share_over_2", "ssim", "psnr", "flip_mean"], id="shifted-by-a-pixel"),
        pytest.param(blurred, ["absmax", "share_over_2", "ssim", "flip_mean"], id="blurred-by-0.7"),
        pytest.param(rough, ["absmax", "mean", "share_over_2", "bias_block", "psnr"], id="smooth-noise"),
    ],
)
def test_a_fault_moves_its_metrics_beyond_a_benign_change(
    photo: RGB, benign: dict[str, float], fault: object, seen_by: list[str]
) -> None:
    found = damaged(photo, fault)
    unmoved = [
        name
        for name in seen_by
        if not (found[name] < benign[name] if name in images.AT_LEAST else found[name] > benign[name])
    ]
    assert unmoved == []


def test_ssim_of_the_worst_tile_sees_what_the_mean_hides(photo: RGB) -> None:
    found = damaged(photo, wrong_tile)
    assert found["ssim"] > 0.98
    assert found["ssim_worst_tile"] < 0.9


def test_ssim_is_blind_to_a_gain(photo: RGB) -> None:
    assert damaged(photo, red_gain)["ssim"] > 0.99


@pytest.mark.parametrize("shape", [(16, 16), (16, 80), (100, 70), (64, 64), (65, 129)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_every_metric_is_a_number_at_any_size(photo: RGB, shape: tuple[int, int]) -> None:
    part = photo[: shape[0], : shape[1]]
    assert all(map(math.isfinite, compare(part, 255 - part).values.values()))


def test_a_picture_below_the_window_has_no_ssim(photo: RGB) -> None:
    found = compare(photo[:10, :10], photo[:10, :10])
    assert math.isnan(found.values["ssim"])
    assert "10 x 10 is smaller than the 11-pixel window" in found.versions["ssim"]


def test_without_flip_its_metrics_are_missing_and_say_so() -> None:
    program = (
        "import sys; sys.modules['flip_evaluator'] = None\n"
        "import numpy as np; from benchmarks.harness.images import compare\n"
        "found = compare(np.zeros((16, 16, 3), 'u1'), np.zeros((16, 16, 3), 'u1'))\n"
        "print(found.values['flip_mean'], found.versions['flip_mean'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nan flip-evaluator does not import")
    assert "pip install flip-evaluator" in done.stdout


def test_tiles_are_plain_means() -> None:
    values = np.random.default_rng(0).random((40, 70, 2))
    tiles = images.tile_means(values, 32)
    assert tiles.shape == (2, 3, 2)
    assert tiles[0, 1] == pytest.approx(values[:32, 32:64].mean((0, 1)))
    assert tiles[1, 2] == pytest.approx(values[8:, 38:].mean((0, 1)))


def test_pictures_of_two_sizes_are_refused(photo: RGB) -> None:
    with pytest.raises(ValueError, match="the actual picture is 80 x 64 but 64 x 64 is expected"):
        compare(photo[:64, :64], photo[:64, :80])


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 4), "u1"), np.zeros((4, 4)), np.zeros((0, 4, 3), "u1")], ids=str)
def test_what_is_no_rgb_picture_is_refused(photo: RGB, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"but must be uint8 \[H, W, 3\]"):
        compare(photo, bad)


def test_the_fingerprint_is_of_pixels_and_shape_not_of_the_file(photo: RGB, tmp_path: Path) -> None:
    for level in (0, 9):
        Image.fromarray(photo).save(tmp_path / f"{level}.png", compress_level=level)
    assert len({images.fingerprint(images.read_png(tmp_path / f"{level}.png")) for level in (0, 9)}) == 1
    assert images.fingerprint(photo) != images.fingerprint(photo.reshape(128, 512, 3))


def test_a_difference_is_amplified_as_far_as_nothing_clips() -> None:
    expected, actual = np.full((2, 16, 16, 3), 100, np.uint8)
    actual[0, 0, 0], actual[1, 1, 1] = 97, 105
    picture, factor = images.amplified(expected, actual)
    assert (factor, picture[0, 0, 0], picture[1, 1, 1], picture.sum()) == (32, 96, 160, 256)


def test_equal_pictures_are_not_amplified(photo: RGB) -> None:
    picture, factor = images.amplified(photo, photo)
    assert (factor, picture.max()) == (1, 0)


@pytest.mark.parametrize(("largest", "factor"), [(1, 128), (2, 64), (127, 2), (128, 1), (255, 1)])
def test_the_factor_is_a_power_of_two(largest: int, factor: int) -> None:
    assert images.amplified(np.zeros((1, 1, 3), "u1"), np.full((1, 1, 3), largest, "u1"))[1] == factor


def test_latents_are_compared_step_by_step() -> None:
    expected = np.ones((2, 4, 8), np.float32)
    actual = expected.copy()
    actual[1, 0, 0] = 1.5
    first, second = images.latent_errors("x_t", expected, actual)
    assert (first.relative_l2, first.worst, first.cosine) == (0.0, 0.0, pytest.approx(1.0))
    assert (second.step, second.worst) == (1, 0.5)
    assert second.relative_l2 == pytest.approx(0.5 / math.sqrt(32))
    assert second.cosine == pytest.approx(32.5 / math.sqrt(32 * 33.25))


def test_latents_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x_t is \(2, 4, 8\) but must be \(3, 4, 8\)"):
        images.latent_errors("x_t", np.ones((3, 4, 8)), np.ones((2, 4, 8)))


def as_file(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, **options)  # type: ignore[arg-type]
    return file.getvalue()


SMALL = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
PNG = as_file(SMALL, format="PNG")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(as_file(SMALL, format="JPEG"), "is not a PNG but JPEG", id="renamed-jpeg"),
        pytest.param(b"", "is not a PNG", id="empty"),
        pytest.param(PNG[:20], "has 20 bytes but must be 8-bit RGB", id="header-cut-short"),
        pytest.param(PNG[: len(PNG) // 2], "cannot be read to its end", id="cut-short"),
        pytest.param(PNG[:100] + b"\0" + PNG[101:], "cannot be read to its end", id="damaged"),
        pytest.param(as_file(SMALL.convert("RGBA"), format="PNG"), "colour type 6 but must be 8-bit RGB", id="alpha"),
        pytest.param(as_file(SMALL.convert("P"), format="PNG"), "colour type 3", id="palette"),
        pytest.param(as_file(SMALL.convert("L"), format="PNG"), "colour type 0", id="gray"),
        pytest.param(
            as_file(SMALL, format="PNG", transparency=(1, 2, 3)), "has a transparent colour", id="transparent-colour"
        ),
        pytest.param(PNG[:24] + b"\x10" + PNG[25:], "bit depth 16", id="16-bit"),
    ],
)
def test_a_file_that_is_no_plain_png_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "expected.png").write_bytes(content)
    with pytest.raises(ValueError, match=says) as refusal:
        images.read_png(tmp_path / "expected.png")
    assert str(tmp_path / "expected.png") in str(refusal.value)


def test_a_written_picture_is_read_back(tmp_path: Path, photo: RGB) -> None:
    images.write_png(tmp_path / "a.png", photo)
    assert (images.read_png(tmp_path / "a.png") == photo).all()


def test_the_heat_of_no_error_is_black_and_of_the_largest_is_not() -> None:
    drawn = images.heat(np.array([[0.0, 1.0]], dtype=np.float32))
    assert drawn.shape == (1, 2, 3)
    assert drawn[0, 0].max() < 8 < drawn[0, 1].min()


def test_flip_errors_lie_where_the_pictures_differ(photo: RGB) -> None:
    changed = photo.copy()
    changed[:16, :16] = 255 - changed[:16, :16]
    errors = images.compare(photo, changed).flip
    assert errors is not None
    assert errors.shape == photo.shape[:2]
    assert errors[:16, :16].mean() > 0.3
    assert errors[64:, 64:].max() < 0.01
