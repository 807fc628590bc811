"""The schedule, the guidance formulas and the Euler loop, against hand-written arithmetic."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bagel.sampler import Guidance, guide, integrate, schedule

MAIN, NO_TEXT, NO_IMAGE = (torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))


@given(steps=st.integers(2, 100), shift=st.floats(0.1, 10))
def test_times_fall_from_one_to_zero(steps: int, shift: float) -> None:
    times = schedule(steps, shift)
    assert len(times) == steps
    assert float(times[0]) == pytest.approx(1.0)
    assert float(times[-1]) == 0.0
    assert bool((times.diff() < 0).all())


def test_shift_three_moves_the_middle_to_three_quarters() -> None:
    assert float(schedule(3, 3.0)[1]) == 0.75


@pytest.mark.parametrize(
    ("steps", "shift", "message"),
    [
        (1, 3.0, "steps is 1 but must be at least 2"),
        (4, 0.0, "shift is 0.0"),
        (4, float("nan"), "shift is nan but must be positive and finite"),
        (4, float("inf"), "shift is inf but must be positive and finite"),
    ],
)
def test_impossible_schedule_is_refused(steps: int, shift: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(steps, shift)


@pytest.mark.parametrize(
    ("t", "on"),
    [(0.4, False), (0.41, True), (0.9, True), (0.91, False)],
    ids=["low", "above low", "high", "above high"],
)
def test_interval_is_open_below_and_closed_above(t: float, on: bool) -> None:
    guidance = Guidance(4.0, 2.0, interval=(float(torch.tensor(0.4)), float(torch.tensor(0.9))))
    assert guidance.scales_at(torch.tensor(t)) == ((4.0, 2.0) if on else (1.0, 1.0))


def test_guidance_without_effective_renorm_is_the_textbook_formula() -> None:
    weak = Guidance(1.5, renorm_min=1.0)
    assert torch.allclose(guide(MAIN, NO_TEXT, None, weak), NO_TEXT + 1.5 * (MAIN - NO_TEXT))


def test_image_guidance_is_applied_to_the_text_guided_velocity() -> None:
    weak = Guidance(1.5, 2.0, renorm_min=1.0)
    guided = NO_TEXT + 1.5 * (MAIN - NO_TEXT)
    assert torch.allclose(guide(MAIN, NO_TEXT, NO_IMAGE, weak), NO_IMAGE + 2.0 * (guided - NO_IMAGE))


def test_global_renorm_scales_the_whole_velocity_to_the_main_norm() -> None:
    out = guide(MAIN, NO_TEXT, None, Guidance(6.0, renorm_type="global"))
    guided = NO_TEXT + 6.0 * (MAIN - NO_TEXT)
    assert torch.allclose(out, guided * MAIN.norm() / guided.norm())


def test_channel_renorm_lets_no_token_grow() -> None:
    out = guide(MAIN, NO_TEXT, NO_IMAGE, Guidance(6.0, 2.0, renorm_type="channel"))
    assert bool((out.norm(dim=-1) <= MAIN.norm(dim=-1) * (1 + 1e-5)).all())


def test_text_channel_renorm_comes_before_image_guidance() -> None:
    out = guide(MAIN, NO_TEXT, NO_IMAGE, Guidance(6.0, 2.0, renorm_type="text_channel"))
    text = guide(MAIN, NO_TEXT, None, Guidance(6.0, renorm_type="channel"))
    assert torch.allclose(out, NO_IMAGE + 2.0 * (text - NO_IMAGE))


def test_renorm_minimum_bounds_the_factor_from_below() -> None:
    out = guide(MAIN, NO_TEXT, None, Guidance(50.0, renorm_type="global", renorm_min=0.8))
    assert torch.allclose(out, 0.8 * (NO_TEXT + 50.0 * (MAIN - NO_TEXT)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"renorm_type": "token"}, "renorm type 'token' is unknown; use one of global, channel, text_channel"),
        ({"interval": (1.0, 0.4)}, r"interval 1.0 0.4 is empty"),
        ({"renorm_min": 1.5}, r"renorm minimum 1.5 must lie in 0..1"),
        ({"renorm_min": float("nan")}, r"renorm minimum nan must lie in 0..1"),
        ({"text_scale": float("nan")}, r"text scale is nan but must be a finite number"),
        ({"image_scale": float("inf")}, r"image scale is inf but must be a finite number"),
        ({"interval": (float("nan"), 1.0)}, r"interval start is nan but must be a finite number"),
        ({"interval": (0.4, float("inf"))}, r"interval end is inf but must be a finite number"),
    ],
    ids=["type", "interval", "minimum", "nan minimum", "nan text", "infinite image", "nan time", "infinite time"],
)
def test_impossible_guidance_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guidance(**changes)  # type: ignore[arg-type]


def test_constant_velocity_is_integrated_exactly() -> None:
    noise, velocity = torch.ones(2, 3), torch.full((2, 3), 0.25)
    out = integrate(lambda step, t, x: velocity, noise, schedule(9, 3.0))
    assert torch.allclose(out.final, noise - velocity)
    assert out.x_t.shape == out.v_t.shape == (8, 2, 3)


def test_latent_stays_float32_under_a_half_precision_velocity() -> None:
    def velocity(step: int, t: Tensor, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        return x.bfloat16()

    assert integrate(velocity, torch.ones(2, 3), schedule(3, 1.0)).final.dtype == torch.float32
