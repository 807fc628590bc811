"""Where two implementations come apart: per denoising step, and op by op within the first step that is over its limit.

Three figures, all against the truth: the reference implementation in a wider dtype, on the trajectory that it makes.

local         every update is started from the truth's latent, so the error is this update's own
free-running  every update is started from where the one before ended: what a picture gets
gain          by what an update multiplies the free-running difference

Limits are measured, not chosen: trace_errors.Known says how.
"""

from __future__ import annotations

import dataclasses
import shlex
import typing
from dataclasses import dataclass

import torch

import reference_impl
from bagel.pipeline import BagelPipeline, GeneratedImage
from benchmarks.harness.known_good import Variant, libraries, reordered
from benchmarks.harness.trace_errors import Known, SiteError, StepError, latents, relative, site_distances, step_figures
from benchmarks.harness.trace_runs import Bench, Run, Wanted, within
from reference_impl.contract import MoTOps
from reference_impl.tolerance import truth_dtype

Verdict = typing.Literal["identical", "compatible with reordering", "outside", "not measured"]
Side = typing.Literal["impl", "against"]


@dataclass(frozen=True)
class Trace:
    """What was found of `impl` beside `against`, and a sentence that says it.

    steps    "impl" and "against" -> one StepError per update
    sites    "impl" and "against" -> every tensor of the passes before step 0 and of step `detailed`, and all
             velocities, in order
    between  per update, the relative L2 difference of their free-running latents
    p        share of known-good runs, this one included, that end at least as far from the truth as `impl`
    """

    case: str
    impl: str
    against: str
    device: str
    dtype: str
    truth: str
    verdict: Verdict
    sentence: str
    reproduce: str
    detailed: int
    p: float
    known_good: int
    between: list[float]
    steps: dict[str, list[StepError]]
    sites: dict[str, list[SiteError]]


@dataclass(frozen=True)
class Subject:
    """An implementation as it is typed, and what that means."""

    name: str
    ops: MoTOps


def trace(bench: Bench, impl: Subject, against: Subject, runs: int) -> Trace:
    """Trace `impl` beside `against`. runs: how many reordered runs the limits are measured on, besides the reference.

    A first look keeps every tensor before step 0 and of step 0, and every velocity. If a later step is the first over
    its limit, a second look keeps that step's tensors instead. Raises OSError or ValueError for a case that cannot be
    read, NotImplementedError for a dtype that an implementation does not have.
    """
    look = _look(bench, impl, against, runs, 0)
    if look.begins:
        look = _look(bench, impl, against, runs, look.begins)
    verdict, sentence = look.words()
    return Trace(
        case=bench.case.name,
        impl=impl.name,
        against=against.name,
        device=bench.device.type,
        dtype=_name(bench.dtype),
        truth=f"reference in {_name(truth_dtype(bench.dtype))}",
        verdict=verdict,
        sentence=sentence,
        reproduce=reproduce(bench, impl, against, runs),
        detailed=look.step,
        p=look.known.p(look.steps["impl"]),
        known_good=len(look.known.steps),
        between=_between(look.found["impl"].free, look.found["against"].free),
        steps=look.steps,
        sites=look.sites,
    )


def reproduce(bench: Bench, impl: Subject, against: Subject, runs: int) -> str:
    """One line that traces this case again."""
    words = ["motbench", "trace", bench.case.name, "--impl", impl.name, "--against", against.name]
    words += ["--device", bench.device.type, "--dtype", _name(bench.dtype), "--runs", str(runs)]
    return shlex.join(words)


@dataclass(frozen=True)
class _Look:
    """Both sides and the known-good population, with every tensor of step `step`."""

    step: int
    known: Known
    found: dict[Side, Run]
    steps: dict[str, list[StepError]]
    sites: dict[str, list[SiteError]]

    @property
    def begins(self) -> int:
        """The step to look at: that of the first tensor or update over its limit, else 0, as for the passes before."""
        site = _first(self.sites["impl"]) or _first(self.sites["against"])
        if site is not None:
            return site.step or 0
        return next((update.step for update in self.steps["impl"] if not update.ok), 0)

    def words(self) -> tuple[Verdict, str]:
        """The verdict on `impl`, and a sentence; the other side is mentioned if it is outside too."""
        verdict, sentence = self._of_impl()
        other = _first(self.sites["against"])
        if other is None and (error := self.found["against"].error):
            sentence += f"; the implementation beside it makes no picture: {error}"
        if other is not None:
            sentence += f"; the implementation beside it is outside too, first at {other.where}"
        return verdict, sentence

    def _of_impl(self) -> tuple[Verdict, str]:
        run, sites = self.found["impl"], self.sites["impl"]
        if self.known.error:
            return "not measured", f"not measured: the reference itself makes no picture: {self.known.error}"
        if (site := _first(sites)) is not None:
            return "outside", f"outside: first at {site.where} ({site.figures})"
        if run.error:
            return "outside", f"outside: it makes no picture: {run.error}"
        if not sites:
            return "not measured", "not measured: nothing was seen"
        if (update := next((update for update in self.steps["impl"] if not update.ok), None)) is not None:
            return "outside", f"outside: first at {update.where}; no tensor of that step is over its limit"
        if _identical(run.free, self.found["against"].free):
            return "identical", "identical: the same latents and velocities at every step, and the same picture"
        p, count = self.known.p(self.steps["impl"]), len(self.known.steps)
        return "compatible with reordering", f"compatible with reordering (p = {p:.2g}, {count} known-good runs)"


def _look(bench: Bench, impl: Subject, against: Subject, runs: int, step: int) -> _Look:
    wanted = within(step)
    truth = bench.run(bench.load(truth_dtype(bench.dtype)), lambda: reference_impl.OPS, None, wanted)
    if truth.free is None:
        raise ValueError(f"{bench.case.name}: the reference itself makes no picture: {truth.error}")
    pipeline = bench.load(bench.dtype)
    known = known_good(bench, pipeline, truth, wanted, runs)
    sides: dict[Side, Subject] = {"impl": impl, "against": against}
    look = _Look(step, known, {}, {}, {})
    for side, subject in sides.items():
        run = bench.run(pipeline, lambda ops=subject.ops: ops, truth.free.x_t, wanted)  # type: ignore[misc]
        look.steps[side] = known.limited(step_figures(bench.case, truth, run))
        look.sites[side] = known.judged(site_distances(truth, run))
        look.found[side] = dataclasses.replace(run, seen={})  # the tensors may be tens of gigabytes
    return look


def known_good(bench: Bench, pipeline: BagelPipeline, truth: Run, wanted: Wanted, runs: int) -> Known:
    """Measure the population: the reference, `runs` reordered ones, and PyTorch's own alternatives.

    The last stand for what no op does: the autoencoder and the eye add up in another order on another thread count.
    """
    trajectory = truth.free.x_t if truth.free else None
    sites, steps, error = [], [], ""
    population = [Variant("reference", "reference", lambda: reference_impl.OPS), *libraries(bench.device)]
    population += [Variant("moved", f"moved {seed}", lambda seed=seed: reordered(seed)) for seed in range(runs)]  # type: ignore[misc]
    for variant in population:
        with variant.settings():
            run = bench.run(pipeline, variant.ops, trajectory, wanted)
        sites.append(site_distances(truth, run))
        steps.append(step_figures(bench.case, truth, run))
        error = error or run.error
    return Known(bench.dtype, sites, steps, error)


def _first(sites: list[SiteError]) -> SiteError | None:
    return next((site for site in sites if not site.ok), None)


def _between(a: GeneratedImage | None, b: GeneratedImage | None) -> list[float]:
    return [] if a is None or b is None else relative(latents(b), latents(a))


def _identical(a: GeneratedImage | None, b: GeneratedImage | None) -> bool:
    if a is None or b is None:
        return False
    pairs = ((a.x_t, b.x_t), (a.v_t, b.v_t), (a.final_latents, b.final_latents), (a.decoded_raw, b.decoded_raw))
    return all(torch.equal(x, y) for x, y in pairs)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
