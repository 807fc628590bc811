"""Flow matching: the schedule, the guidance formulas and the Euler loop. Pure functions on tensors."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from reference_impl.contract import require

RenormType = Literal["global", "channel", "text_channel"]
EPS = 1e-8
"""Added to the norm that renormalisation divides by."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance against the context without text and the one without image.

    text_scale, image_scale  1 or less switches a guidance off; without text guidance the image scale has no effect
    interval                 guidance is on at a time t with interval[0] < t <= interval[1], t after the shift
    renorm_type              what the guided velocity's norm is pulled back over: "global" all values, "channel" each
                             token's, "text_channel" each token's after text guidance and before image guidance
    renorm_min               the least factor by which renormalisation multiplies
    """

    text_scale: float = 4.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.4, 1.0)
    renorm_type: RenormType = "global"
    renorm_min: float = 0.0

    def __post_init__(self) -> None:
        require(
            self.renorm_type in get_args(RenormType),
            "guidance renorm type {!r} is unknown; use one of {}",
            self.renorm_type,
            ", ".join(get_args(RenormType)),
        )
        low, high = self.interval
        values = {
            "text scale": self.text_scale,
            "image scale": self.image_scale,
            "interval start": low,
            "interval end": high,
        }
        for name, value in values.items():
            require(math.isfinite(value), "guidance {} is {} but must be a finite number", name, value)
        require(low <= high, "guidance interval {} {} is empty; give the lower time first", low, high)
        require(
            0 <= self.renorm_min <= 1,
            "guidance renorm minimum {} must lie in 0..1, as the factor does",
            self.renorm_min,
        )

    def scales_at(self, t: Tensor) -> tuple[float, float]:
        """(text, image) scale at time t, a float32 tensor []."""
        low, high = self.interval
        return (self.text_scale, self.image_scale) if bool(t > low) and bool(t <= high) else (1.0, 1.0)

    @property
    def branches(self) -> tuple[str, ...]:
        """The contexts behind which velocities can be needed: of "main", "no_text" and "no_image"."""
        return _branches(self.text_scale, self.image_scale)

    def branches_at(self, t: Tensor) -> tuple[str, ...]:
        """Those that are needed at time t."""
        return _branches(*self.scales_at(t))


def _branches(text_scale: float, image_scale: float) -> tuple[str, ...]:
    if text_scale <= 1:
        return ("main",)
    return ("main", "no_text") if image_scale <= 1 else ("main", "no_text", "no_image")


def schedule(steps: int, shift: float) -> Tensor:
    """Times from 1 to 0, [steps] float32: t = linspace(1, 0), then shift * t / (1 + (shift - 1) * t).

    Each of the steps - 1 updates goes from one time to the next. Raises ValueError.
    """
    require(steps >= 2, "steps is {} but must be at least 2: updates are one fewer than steps", steps)
    require(
        0 < shift < math.inf,
        "timestep shift is {} but must be positive and finite; 3.0 is usual and 1.0 means none",
        shift,
    )
    t = torch.linspace(1, 0, steps)
    return shift * t / (1 + (shift - 1) * t)


def guide(main: Tensor, no_text: Tensor, no_image: Tensor | None, guidance: Guidance) -> Tensor:
    """The guided velocity [n, width] of one update at which text guidance is on.

    no_image is None where image guidance is off. Source: upstream's `_forward_flow`.
    """
    guided = no_text + guidance.text_scale * (main - no_text)
    if guidance.renorm_type == "text_channel":
        return _toward(no_image, _renormed(guided, main, guidance), guidance)
    return _renormed(_toward(no_image, guided, guidance), main, guidance)


def _toward(no_image: Tensor | None, guided: Tensor, guidance: Guidance) -> Tensor:
    return guided if no_image is None else no_image + guidance.image_scale * (guided - no_image)


def _renormed(guided: Tensor, main: Tensor, guidance: Guidance) -> Tensor:
    """Guided, no longer than main: over everything for "global", else per token. Norms are float32."""
    over = None if guidance.renorm_type == "global" else -1
    own, target = (torch.linalg.vector_norm(v.float(), dim=over, keepdim=over is not None) for v in (guided, main))
    factor: Tensor = (target / (own + EPS)).clamp(min=guidance.renorm_min, max=1.0)
    return guided * factor


@dataclass(frozen=True)
class Trajectory:
    """x_t [updates, n, width] at the start of each update, the velocity v_t used there, and where it ended."""

    x_t: Tensor
    v_t: Tensor
    final: Tensor


class Descent:
    """One picture on its way from noise at t = 1 by Euler's method: x <- x - v * (t_i - t_{i+1}), x in float32.

    times [updates + 1]; given [updates, n, width]: the x that each update starts from, instead of noise and its
    followers. v * dt is formed in v's dtype, as upstream does.
    """

    def __init__(self, noise: Tensor, times: Tensor, given: Tensor | None = None) -> None:
        self.x, self.times, self.given = noise.float(), times, given
        self.updates = len(times) - 1
        # On the device once: a copy in every update would wait for the one before.
        self._dt = (times[:-1] - times[1:]).to(noise.device)
        self._x_t: list[Tensor] = []
        self._v_t: list[Tensor] = []

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """(t [], x [n, width]) at the start of an update."""
        if self.given is not None:
            self.x = self.given[step].float()
        return self.times[step], self.x

    def advance(self, step: int, v: Tensor) -> None:
        """Make the update."""
        self._x_t.append(self.x)
        self._v_t.append(v.float())
        self.x = self.x - v * self._dt[step]

    @property
    def trajectory(self) -> Trajectory:
        """What was made of it."""
        return Trajectory(torch.stack(self._x_t), torch.stack(self._v_t), self.x)


def integrate(
    velocity: Callable[[int, Tensor, Tensor], Tensor], noise: Tensor, times: Tensor, given: Tensor | None = None
) -> Trajectory:
    """The whole path of one picture: velocity(step, t [], x [n, width]) -> [n, width]. See `Descent`."""
    path = Descent(noise, times, given)
    for step in range(path.updates):
        path.advance(step, velocity(step, *path.at(step)))
    return path.trajectory
