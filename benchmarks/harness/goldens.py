"""Judging golden cases: parity with the reference at this commit, and drift from the approved picture."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bagel.pipeline import BagelPipeline, GeneratedImage
from benchmarks.harness import images, precision, stack
from benchmarks.harness.golden_case import EXPECTED, GoldenCase
from benchmarks.harness.golden_draw import draw
from benchmarks.harness.golden_known import known_good
from benchmarks.harness.golden_limits import Kind as Judged
from benchmarks.harness.golden_limits import judge, score
from benchmarks.harness.golden_locate import Locator
from benchmarks.harness.golden_words import same, words
from benchmarks.harness.images import RGB
from benchmarks.harness.impls import FUSED, REFERENCE, said
from benchmarks.harness.records import Golden, LatentError, Status
from reference_impl.contract import MoTOps

if typing.TYPE_CHECKING:  # commits from before there were quantised experts have no Kind
    from reference_impl.contract import Kind

Against = typing.Literal["reference", "golden"]
KINDS: dict[Against, Judged] = {"reference": "parity", "golden": "drift"}


@dataclass(frozen=True)
class Plan:
    """What is judged, beside which witness, where and in which precision.

    impl     as it is typed: reference, fused or package.module:OPS
    witness  the reference; if `ops` is the witness itself there is no parity to judge, only drift
    quantise  kind of the linear layers of both, fp8 or int8; None as the checkpoint has them
    """

    impl: str
    ops: MoTOps
    witness: MoTOps
    device: torch.device
    dtype: torch.dtype
    quantise: Kind | None = None

    @property
    def dtype_name(self) -> str:
        """The precision, whose limits judge it: float32, or float32-fp8."""
        return precision.named(self.dtype, self.quantise)


@dataclass(frozen=True)
class Made:
    """A picture with its latents after, and its velocity during each update, [updates, n, width]; or why none.

    judged   False if what lies on disk, not the implementation, is why there is no picture
    updates  how many were made; of a golden, how many its case asks for
    """

    picture: RGB | None = None
    latents: dict[typing.Literal["x_t", "v_t"], images.Map] = field(default_factory=dict)
    error: str = ""
    judged: bool = True
    updates: int | None = None


Painter = Callable[[GoldenCase], Made]


@dataclass(frozen=True)
class Finding:
    """The outcome of one comparison, before it becomes a record."""

    status: Status
    reason: str
    expected: RGB | None = None
    actual: RGB | None = None
    comparison: images.Comparison | None = None
    latents: list[LatentError] = field(default_factory=list)

    @property
    def values(self) -> dict[str, float]:
        """Every metric, of the picture and of the latents."""
        found = {} if self.comparison is None else self.comparison.values
        return found | latent_values(self.latents)


class Selectable(typing.Protocol):
    """A case that makes a picture, or one that asks (golden_answers)."""

    @property
    def name(self) -> str:
        """The folder's name."""

    @property
    def interpreter(self) -> bool:
        """Whether it is short enough for fused kernels in the interpreter."""


Case = typing.TypeVar("Case", bound=Selectable)


def limited(cases: Iterable[GoldenCase], plan: Plan) -> list[GoldenCase]:
    """The cases that have limits in the plan's precision: quantised layers are judged on those that were calibrated."""
    return [case for case in cases if plan.dtype_name in case.limits["parity"]]


def selected(cases: Iterable[Case], impl: str, device: torch.device) -> list[Case]:
    """The cases that an implementation is judged on: on a CPU, where fused is interpreted, it gets the short ones."""
    interpreted = impl == FUSED and device.type == "cpu"
    return [case for case in cases if case.interpreter or not interpreted]


def check(cases: Iterable[GoldenCase], plan: Plan, out: Path) -> Iterator[Golden]:
    """Judge each case and yield its records as soon as they are there: against the reference, then the golden.

    Every golden is read before the first picture is made. `out` is the folder that the records' pictures are relative
    to. Raises OSError or ValueError for a golden or a case that cannot be read, NotImplementedError for a dtype that
    the implementation does not have. A picture that cannot be made, whatever was raised, is a record that says why.
    """
    here = stack.here(plan.device)
    yield from _judged([(case, approved(case)) for case in (case.on(here) for case in cases)], plan, out, painter)


def check_all(cases: Iterable[GoldenCase], plan: Plan, out: Path) -> Iterator[Golden]:
    """The same for a run that nobody watches: whatever is wrong with a case is its record, and the others go on.

    A golden or an input that cannot be read is not measured; an implementation that raises anything is regressed.
    """
    here = stack.here(plan.device)
    own = (case.on(here) for case in cases)
    yield from _judged([(case, _tolerant(approved)(case)) for case in own], plan, out, _patient)


def approved(case: GoldenCase) -> Made:
    """The golden, and why it is void if it is. Raises OSError or ValueError if it or the input cannot be read."""
    expected, stale = case.expected(), case.stale()
    error = stale if expected is not None else _no_golden(case)
    return Made(expected, error=error, updates=case.request.steps - 1)


def _judged(
    goldens: Iterable[tuple[GoldenCase, Made]], plan: Plan, out: Path, paint: Callable[[MoTOps, Plan], Painter]
) -> Iterator[Golden]:
    judged, witness = paint(plan.ops, plan), paint(plan.witness, plan)
    locate = Locator(plan.impl, plan.ops, plan.witness, plan.device, plan.dtype, plan.quantise)
    for case, golden in goldens:
        start = time.perf_counter()
        made = judged(case)
        if plan.ops is not plan.witness:
            reference = witness(case)
            finding = _valid(compare(reference, made, case.limits_of("parity", plan.dtype_name)), case, "parity", plan)
            yield locate(_record(case, plan, "reference", finding, out, start), case)
            start = time.perf_counter()
        finding = _valid(compare(golden, made, case.limits_of("drift", plan.dtype_name)), case, "drift", plan)
        yield locate(_record(case, plan, "golden", finding, out, start), case)


def _valid(finding: Finding, case: GoldenCase, kind: Judged, plan: Plan) -> Finding:
    """The finding, or not measured if it rests on limits that no longer belong to the case."""
    void = case.void(kind, plan.dtype_name)
    return dataclasses.replace(finding, status="not-measured", reason=void) if void and finding.comparison else finding


def painter(ops: MoTOps, plan: Plan) -> Painter:
    """A function that makes the picture of a case with `ops`. Each checkpoint is loaded once.

    Our own implementations are judged as they are used, with buffers that are kept and, on a GPU, CUDA graphs. Others'
    need not be fit for a capture.
    """

    @functools.cache
    def load(checkpoint: Path) -> BagelPipeline:
        pipeline = loaded(checkpoint, ops, plan)
        return pipeline.with_graphs(2) if plan.impl in (FUSED, REFERENCE) else pipeline

    def paint(case: GoldenCase) -> Made:
        request, pipeline = case.image_request(), case.fitted(load(case.checkpoint))
        try:
            return made_of(pipeline.generate(request))
        except NotImplementedError:
            raise
        except Exception as error:
            # What an implementation did wrong, such as NaN in the picture, is a finding about it.
            return Made(error=said(error))

    return paint


def loaded(checkpoint: Path, ops: MoTOps, plan: Plan) -> BagelPipeline:
    """The checkpoint as a plan has it. Of commits before quantised layers only these are refused."""
    if plan.quantise is None:
        return BagelPipeline.from_checkpoint(checkpoint, ops, plan.device, plan.dtype)
    return BagelPipeline.from_checkpoint(checkpoint, ops, plan.device, plan.dtype, quantise=plan.quantise)


def _patient(ops: MoTOps, plan: Plan) -> Painter:
    """A painter that raises nothing."""
    return _tolerant(painter(ops, plan))


def _tolerant(make: Painter) -> Painter:
    """What cannot be read is not judged; what a kernel raises (Triton's and CUDA's errors are of any type) is."""

    def made(case: GoldenCase) -> Made:
        try:
            return make(case)
        except (OSError, ValueError) as error:
            return Made(error=said(error), judged=False)
        except Exception as error:
            return Made(error=said(error))

    return made


def made_of(result: GeneratedImage) -> Made:
    """A generated picture as arrays. Raises ValueError unless it is RGB."""
    if result.image.mode != "RGB":
        raise ValueError(f"the picture has mode {result.image.mode} but must be RGB without alpha")
    after = torch.cat([result.x_t[1:], result.final_latents[None]])
    latents: dict[typing.Literal["x_t", "v_t"], images.Map] = {"x_t": after.numpy(), "v_t": result.v_t.numpy()}
    return Made(np.asarray(result.image), latents, updates=len(result.v_t))


def compare(expected: Made, made: Made, limits: Mapping[str, float] | None) -> Finding:
    """Judge a picture against the expected one, and its latents too where both are known.

    No picture is a failure; an expectation that is missing or void means that nothing was measured.
    """
    a, b = expected.picture, made.picture
    if b is None and not made.judged:
        return Finding("not-measured", made.error, a)
    if b is None:
        return Finding("regressed", f"no picture was made: {made.error}", a)
    if a is None or expected.error:
        return Finding("not-measured", expected.error, a, b)
    try:
        found = images.compare(a, b)
        pairs = [(name, latents, made.latents[name]) for name, latents in expected.latents.items()]
        latents = [error for pair in pairs for error in images.latent_errors(*pair)]
    except ValueError as error:
        return Finding("regressed", str(error), a, b)
    status, reason = judge(found.values | latent_values(latents), limits, found.versions)
    if expected.updates is not None and made.updates != expected.updates:
        # Half precision hides an update too many in a picture; nothing hides it from a count.
        more = f"; {reason}" if status == "regressed" else ""
        status, reason = "regressed", f"{made.updates} updates were made but {expected.updates} are asked for{more}"
    return Finding(status, reason, a, b, found, latents)


def latent_values(errors: list[LatentError]) -> dict[str, float]:
    """The worst update of the latents (x_t): relative L2 error, cosine, largest difference. Nothing without errors."""
    x = [error for error in errors if error.field == "x_t"]
    if not x:
        return {}
    return {
        "latent_relative_l2": max(error.relative_l2 for error in x),
        "latent_cosine": min(error.cosine for error in x),
        "latent_absmax": max(error.worst for error in x),
    }


def reproduce(case: str, plan: Plan) -> str:
    """One line that judges this case again."""
    words = ("motbench", "golden", "check", "--case", case, "--impl", plan.impl, "--device", plan.device.type)
    kind = ("--quantise", plan.quantise) if plan.quantise else ()
    return shlex.join((*words, "--dtype", precision.named(plan.dtype, None), *kind))


def _no_golden(case: GoldenCase) -> str:
    if case.approval is not None:
        return f"the approved picture is missing; type: git checkout -- golden_images/{case.name}/{EXPECTED}"
    return f'there is no golden; look at the picture, then type: motbench golden accept {case.name} --reason "..."'


def _record(case: GoldenCase, plan: Plan, against: Against, finding: Finding, out: Path, start: float) -> Golden:
    kind, found = KINDS[against], finding.comparison
    limits = case.limits_of(kind, plan.dtype_name)
    stem = "-".join((case.name, plan.impl, plan.dtype_name, "against", against))
    pictures, amplified = draw(finding.expected, finding.actual, found, out, stem)
    pictures = _draw_input(case, out) | pictures
    identical = found is not None and found.identical
    used, known = score(finding.values, limits or {}), known_good(case, kind, plan.dtype_name)
    p = None if known is None or used is None else known.p(used)
    basis = known.record if known else None
    return Golden(
        case=case.name,
        task=case.request.task,
        prompt=case.request.prompt,
        impl=plan.impl,
        against=against,
        status=finding.status,
        reason=finding.reason,
        reproduce=reproduce(case.name, plan),
        metrics=finding.values,
        limits=limits or {},
        metric_versions={} if found is None else found.versions,
        identical=identical,
        pictures=pictures,
        seconds=time.perf_counter() - start,
        golden_provenance=case.approval.summary if case.approval else {},
        device=plan.device.type,
        dtype=plan.dtype_name,
        amplified=amplified,
        latents=finding.latents,
        words=words(finding.status, finding.reason, same(identical, finding.latents), p, basis),
        score=used,
        p=p,
        known_good=basis,
    )


def _draw_input(case: GoldenCase, out: Path) -> dict[str, str]:
    """Write the picture that is edited below out/pictures, if there is one."""
    try:
        source = case.input()
    except (OSError, ValueError):
        return {}  # the finding says why
    if source is None:
        return {}
    path = f"pictures/{case.name}-input.png"
    images.write_png(out / path, source)
    return {"input": path}
