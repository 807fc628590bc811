"""How far a run lies from the truth, tensor by tensor and update by update, and how far a known-good one may."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bagel.pipeline import GeneratedImage
from bagel.probe import Site
from bagel.sampler import schedule
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.trace_runs import Run, velocities
from reference_impl.tolerance import FACTOR, UNIT_ROUNDOFF

Expert = typing.Literal["text", "image", ""]
Key = tuple[Site, int, Expert]

MIXED = ("latent", "denoise")
"""Phases whose rows are image tokens, then two markers of the text expert; all other rows are the text expert's."""

NAMES = {"main": "conditional branch", "no_text": "text guidance branch", "no_image": "image guidance branch"}


@dataclass(frozen=True)
class SiteError:
    """How far one expert's rows of one tensor lie from the truth: relative L2 of all, and of the worst row.

    expert  "" where no expert is chosen (embeddings, the eye, the autoencoder)
    """

    phase: str
    step: int | None
    branch: str
    layer: int | None
    op: str
    expert: Expert
    relative_l2: float
    worst_row: float
    limit_l2: float
    limit_row: float

    @property
    def ok(self) -> bool:
        """Within both limits; what is not a number is not."""
        return self.relative_l2 <= self.limit_l2 and self.worst_row <= self.limit_row

    @property
    def figures(self) -> str:
        """What is over its limit, in words."""
        if not self.relative_l2 <= self.limit_l2:
            return f"relative error {self.relative_l2:.2g}, limit {self.limit_l2:.2g}"
        return f"relative error of its worst row {self.worst_row:.2g}, limit {self.limit_row:.2g}"

    @property
    def where(self) -> str:
        """In words: step 7, layer 3, image expert, o, conditional branch."""
        place = f"step {self.step}" if self.step is not None else f"the {self.phase} pass before step 0"
        layer = "" if self.layer is None else f", layer {self.layer}"
        expert = f", {self.expert} expert" if self.expert else ""
        return f"{place}{layer}{expert}, {self.op}, {NAMES[self.branch]}"


@dataclass(frozen=True)
class StepError:
    """One update, relative L2 against the truth.

    local_v, local_x  of the guided velocity, and of the latent after the update, both from the truth's latent
    branches          the local error of each branch's velocity
    free_v, free_x    the same while running freely; gain is free_x over the update before's, NaN at first
    limit_*           what known-good runs allow
    """

    step: int
    local_v: float
    local_x: float
    free_v: float
    free_x: float
    gain: float
    limit_local_v: float
    limit_free_x: float
    branches: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Within both limits; what is not a number is not."""
        return self.local_v <= self.limit_local_v and self.free_x <= self.limit_free_x

    @property
    def where(self) -> str:
        """In words, what is over its limit."""
        name, error, limit = "free-running latent", self.free_x, self.limit_free_x
        if not self.local_v <= self.limit_local_v:
            name, error, limit = "guided velocity", self.local_v, self.limit_local_v
        return f"step {self.step}, {name} (relative error {error:.2g}, limit {limit:.2g})"


def experts(site: Site, rows: int) -> dict[Expert, slice]:
    """Which rows of a tensor [rows, ...] of this site each expert computed.

    Of keys and values, which hold the context's rows first, these are the last ones.
    """
    routed = site.layer is not None or site.op in ("final_norm", "llm2vae")
    if not routed or site.phase not in ("latent", "vit", "text", "denoise"):
        return {"": slice(None)}
    if site.phase in MIXED:
        return {"text": slice(rows - 2, None), "image": slice(rows - 2)}
    return {"text": slice(None)}


def distances(expected: Tensor, actual: Tensor) -> tuple[float, float]:
    """Relative L2 error of [rows, ...], and that of the worst row, in float64; infinite for NaN or another shape.

    A row's error is divided by its own length or, for rows of next to nothing, by a thousandth of the mean one's.
    """
    if expected.shape != actual.shape:
        return math.inf, math.inf
    a, b = (tensor.double().reshape(len(tensor) if tensor.ndim else 1, -1) for tensor in (expected, actual))
    if a.numel() == 0:
        return 0.0, 0.0
    lengths, errors = a.norm(dim=1), (b - a).norm(dim=1).nan_to_num(nan=math.inf)
    mean = lengths.square().mean().sqrt()
    worst = errors / torch.maximum(lengths, mean / 1000).clamp_min(torch.finfo(torch.float64).tiny)
    whole = float(errors.norm() / a.norm().clamp_min(torch.finfo(torch.float64).tiny))
    return whole, float(worst.max())


def site_distances(truth: Run, run: Run) -> dict[Key, tuple[float, float]]:
    """The error of every tensor of the truth that the run has too, split by expert, in the truth's order."""
    found: dict[Key, tuple[float, float]] = {}
    for (site, number), expected in truth.seen.items():
        actual = run.seen.get((site, number))
        if actual is None:
            continue
        rows = _own_rows(truth, site, number, expected)
        for expert, chosen in experts(site, rows).items():
            a, b = expected, actual
            if a.shape == b.shape and a.ndim:
                a, b = (tensor[len(tensor) - rows :][chosen] for tensor in (a, b))
            found[site, number, expert] = distances(a, b)
    return found


def _own_rows(truth: Run, site: Site, number: int, tensor: Tensor) -> int:
    """Rows of the pass itself: those of its queries, where the tensor may have the context's too."""
    queries = truth.seen.get((dataclasses.replace(site, op="q"), number))
    return len(queries) if queries is not None else (len(tensor) if tensor.ndim else 1)


def latents(result: GeneratedImage) -> Tensor:
    """The latent after every update, [updates, n, width]."""
    return torch.cat([result.x_t[1:], result.final_latents[None]])


def relative(expected: Tensor, actual: Tensor) -> list[float]:
    """Relative L2 per update of [updates, n, width]."""
    return [distances(a[None], b[None])[0] for a, b in zip(expected, actual, strict=True)]


def step_figures(case: GoldenCase, truth: Run, run: Run) -> list[StepError]:
    """All errors per update, without limits; nothing if there is no picture."""
    if truth.free is None or truth.local is None or run.free is None or run.local is None:
        return []
    times = schedule(case.request.steps, case.request.timestep_shift).double()
    after, free_x = latents(truth.free), relative(latents(truth.free), latents(run.free))
    local_v, free_v = relative(truth.local.v_t, run.local.v_t), relative(truth.free.v_t, run.free.v_t)
    spans = (times[:-1] - times[1:]).tolist()
    errors = []
    for step, span in enumerate(spans):
        moved = span * float((run.local.v_t[step].double() - truth.local.v_t[step].double()).norm())
        branches = {
            site.branch: distances(tensor, run.seen[site, number])[0]
            for (site, number), tensor in truth.seen.items()
            if velocities(site) and site.step == step and (site, number) in run.seen
        }
        gain = free_x[step] / free_x[step - 1] if step and free_x[step - 1] else math.nan
        local_x = moved / float(after[step].double().norm())
        errors.append(
            StepError(step, local_v[step], local_x, free_v[step], free_x[step], gain, math.nan, math.nan, branches)
        )
    return errors


@dataclass(frozen=True)
class Known:
    """The known-good population of one case, device and dtype, as far from the truth as each came.

    The reference itself in the judged dtype, and the same with half of all elements of every op's result moved by one
    unit in the last place, in as many draws as there are runs. The first is the rounding that the dtype costs; the
    others are what another order of sums, or another place of rounding, may add, carried through the layers as a real
    one would be.

    error  why one of them made no picture; then there are no limits to speak of
    """

    dtype: torch.dtype
    sites: Sequence[dict[Key, tuple[float, float]]]
    steps: Sequence[list[StepError]]
    error: str = ""

    def limit(self, errors: Sequence[float]) -> float:
        """Twice the largest of the population, as everywhere (reference_impl/tolerance.py), and of one roundoff at
        least: a tensor that happens to be exact in every run, such as a copy, grants the next one's rounding.
        """
        return FACTOR * max([UNIT_ROUNDOFF[self.dtype], *errors])

    def judged(self, found: dict[Key, tuple[float, float]]) -> list[SiteError]:
        """Every tensor beside its limits."""
        errors = []
        for key, (whole, worst) in found.items():
            site, _, expert = key
            limits = (self.limit([run[key][i] for run in self.sites if key in run]) for i in (0, 1))
            place = (site.phase, site.step, site.branch, site.layer, site.op, expert)
            errors.append(SiteError(*place, whole, worst, *limits))
        return errors

    def limited(self, steps: list[StepError]) -> list[StepError]:
        """Every update beside its limits."""
        return [
            dataclasses.replace(
                error,
                limit_local_v=self.limit([run[error.step].local_v for run in self.steps if run]),
                limit_free_x=self.limit([run[error.step].free_x for run in self.steps if run]),
            )
            for error in steps
        ]

    def p(self, steps: list[StepError]) -> float:
        """Share of runs, this one among them, whose last latent is at least as far from the truth; NaN without any."""
        if not steps:
            return math.nan
        as_far = sum(run[-1].free_x >= steps[-1].free_x for run in self.steps if run)
        return (1 + as_far) / (1 + len(self.steps))
