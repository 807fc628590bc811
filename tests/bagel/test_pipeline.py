"""What the three jobs promise, and what they refuse before the first pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import reference_impl
from bagel.pipeline import BagelPipeline, GeneratedImage, Guidance, ImageRequest, TextRequest
from bagel.probe import Probe, Site
from bagel.transforms import Resize

T2I = ImageRequest("a red cat", height=32, width=48, steps=3, seed=7)
EDIT = ImageRequest("darker", image=Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 20), steps=2, seed=7)


@pytest.fixture(scope="module")
def small(oracle: Path) -> BagelPipeline:
    """With small input pictures, so that editing is quick."""
    whole = BagelPipeline.from_checkpoint(oracle / "checkpoint", reference_impl.OPS)
    return replace(whole, vae_resize=Resize(64, 32, 16), vit_resize=Resize(56, 28, 14))


@pytest.fixture(scope="module")
def picture(small: BagelPipeline) -> GeneratedImage:
    return small.generate(T2I)


def test_size_is_the_one_asked_for(picture: GeneratedImage) -> None:
    assert picture.image.size == (48, 32)
    assert picture.decoded_raw.shape == (3, 32, 48)


def test_updates_are_one_fewer_than_steps(picture: GeneratedImage) -> None:
    assert picture.x_t.shape == picture.v_t.shape == (2, 6, 64)


def test_same_seed_gives_the_same_picture(small: BagelPipeline, picture: GeneratedImage) -> None:
    assert torch.equal(small.generate(T2I).decoded_raw, picture.decoded_raw)


def test_another_seed_gives_another_picture(small: BagelPipeline, picture: GeneratedImage) -> None:
    assert not torch.equal(small.generate(replace(T2I, seed=8)).x_t[0], picture.x_t[0])


def test_noise_is_the_first_draw_of_a_cpu_generator(picture: GeneratedImage) -> None:
    assert torch.equal(picture.x_t[0], torch.randn(6, 64, generator=torch.Generator().manual_seed(7)))


def _encoded(pipeline: BagelPipeline, request: ImageRequest) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def keep(site: Site, tensor: Tensor) -> None:
        if site.phase == "encode":
            seen[site.op] = tensor

    pipeline.generate(request, Probe(keep))
    return seen


def test_posterior_noise_is_drawn_after_the_initial_noise(small: BagelPipeline) -> None:
    seen = _encoded(small, EDIT)
    generator = torch.Generator().manual_seed(7)
    h, w = seen["mean"].shape[1:]
    torch.randn(h * w // 4, 64, generator=generator)
    noise = torch.randn(16, h, w, generator=generator)
    assert torch.equal(seen["latent"], small.model.autoencoder.sample(seen["mean"], seen["logvar"], noise))


def test_given_noise_leaves_the_posterior_noise_as_the_seed_has_it(small: BagelPipeline) -> None:
    size = small.vae_resize.size(80, 60)
    given = torch.zeros(size[0] * size[1] // 256, 64)
    assert torch.equal(_encoded(small, replace(EDIT, init_noise=given))["latent"], _encoded(small, EDIT)["latent"])


def test_given_noise_replaces_the_seeds(small: BagelPipeline) -> None:
    given = torch.full((6, 64), 0.5, dtype=torch.float16)
    assert bool((small.generate(replace(T2I, init_noise=given)).x_t[0] == 0.5).all())


def test_edited_picture_has_the_resized_size(small: BagelPipeline) -> None:
    assert small.generate(EDIT).image.size == small.vae_resize.size(80, 60)


def _branches(pipeline: BagelPipeline, guidance: Guidance) -> set[str]:
    seen: set[str] = set()
    probe = Probe(lambda site, tensor: seen.add(site.branch) if site.op == "velocity" else None)
    pipeline.generate(replace(T2I, guidance=guidance), probe)
    return seen


@pytest.mark.parametrize(
    ("guidance", "branches"),
    [
        (Guidance(1.0, 2.0), {"main"}),
        (Guidance(4.0, 1.0), {"main", "no_text"}),
        (Guidance(4.0, 1.5), {"main", "no_text", "no_image"}),
        (Guidance(4.0, 1.5, interval=(0.0, 0.1)), {"main"}),
    ],
    ids=["off", "text", "text and image", "outside the interval"],
)
def test_only_the_branches_that_guidance_needs_are_computed(
    small: BagelPipeline, guidance: Guidance, branches: set[str]
) -> None:
    assert _branches(small, guidance) == branches


def test_empty_prompt_is_allowed(small: BagelPipeline) -> None:
    assert small.generate(replace(T2I, prompt="")).image.size == (48, 32)


def test_answer_is_at_most_as_long_as_asked(small: BagelPipeline) -> None:
    answer = small.understand(TextRequest("what?", max_tokens=3))
    assert answer.ids[0] == small.model.tokenizer.bos
    assert len(answer.ids) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same_picture(
    oracle: Path, picture: GeneratedImage, dtype: torch.dtype
) -> None:
    half = BagelPipeline.from_checkpoint(oracle / "checkpoint", reference_impl.OPS, dtype=dtype).generate(T2I)
    assert half.final_latents.dtype == torch.float32
    assert (half.final_latents - picture.final_latents).norm() <= 0.02 * picture.final_latents.norm()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": None}, "height is None and width 48; both are needed without an input image"),
        ({"image": Image.new("RGB", (8, 8))}, "height 32 and width 48 cannot be given with an input image"),
        ({"seed": -1}, "seed is -1 but must lie in"),
        ({"max_think_tokens": 0}, "max_think_tokens is 0"),
    ],
    ids=["no height", "size and image", "seed", "think tokens"],
)
def test_impossible_request_cannot_be_made(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(T2I, **changes)  # type: ignore[arg-type]


def test_a_given_trajectory_replaces_what_the_updates_before_made(
    small: BagelPipeline, picture: GeneratedImage
) -> None:
    given = torch.stack([picture.x_t[0] / 2, picture.x_t[1]])
    forced = small.generate(replace(T2I, trajectory=given))
    assert torch.equal(forced.x_t, given)
    assert not torch.equal(forced.v_t[0], picture.v_t[0])
    assert torch.equal(forced.v_t[1], picture.v_t[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1}, "steps is 1 but must be at least 2"),
        ({"height": 40}, "height 40 is not a multiple of 16; use 32"),
        ({"width": 2048}, "width 2048 needs 128 tokens along one side but the checkpoint has positions for 64"),
        ({"init_noise": torch.zeros(6, 63)}, r"init_noise has shape \(6, 63\) but must be \(6, 64\)"),
        ({"init_noise": torch.full((6, 64), torch.nan)}, "init_noise holds 384 NaN or infinite values of 384"),
        ({"trajectory": torch.zeros(3, 6, 64)}, r"trajectory has shape \(3, 6, 64\) but must be \(2, 6, 64\)"),
    ],
    ids=["steps", "stride", "too large", "noise", "nan noise", "trajectory"],
)
def test_request_that_does_not_fit_is_refused_before_the_first_pass(
    small: BagelPipeline, changes: dict[str, object], message: str
) -> None:
    def never(site: Site, tensor: Tensor) -> None:
        raise RuntimeError(f"a pass was made: {site}")

    with pytest.raises(ValueError, match=message):
        small.generate(replace(T2I, **changes), Probe(never))  # type: ignore[arg-type]


def test_noise_of_whole_numbers_is_refused(small: BagelPipeline) -> None:
    with pytest.raises(TypeError, match=r"init_noise is torch\.int64 but must be floating point"):
        small.generate(replace(T2I, init_noise=torch.zeros(6, 64, dtype=torch.int64)))


def test_prompt_longer_than_the_models_positions_is_refused(checkpoint: Path, edit_json: Callable[..., None]) -> None:
    edit_json(checkpoint / "llm_config.json", max_position_embeddings=16)
    short = BagelPipeline.from_checkpoint(checkpoint, reference_impl.OPS)
    with pytest.raises(ValueError, match=r"needs \d+ positions, but the model has max_position_embeddings = 16"):
        short.generate(replace(T2I, prompt="cat " * 20))
    with pytest.raises(ValueError, match="20 tokens to write it needs"):
        short.understand(TextRequest("?", max_tokens=20))


def test_input_image_too_large_for_the_checkpoint_is_refused_with_its_sizes(small: BagelPipeline) -> None:
    wide = replace(small, vae_resize=Resize(2048, 32, 16))
    with pytest.raises(ValueError, match=r"input image is resized to 2048 x 32, .* use at most 1024"):
        wide.generate(replace(EDIT, image=Image.new("RGB", (1400, 20))))


def test_understanding_does_not_need_latent_positions(small: BagelPipeline) -> None:
    wide = replace(small, vae_resize=Resize(2048, 32, 16))
    assert wide.understand(TextRequest("?", Image.new("RGB", (1400, 20)), max_tokens=2)).ids
