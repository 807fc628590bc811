"""One denoising step of BAGEL at full size, fused and graphed, against other ways to compute it over the same weights.

Weights, contexts and latents are seeded and random. All candidates of a size are measured in turn on the same data, so
that clocks move all of them alike. No number is returned before the fused step's velocities have been held against a
truth in float32, and a replay of its graph against the first call, bit for bit. Steps of the same layers quantised are
measured in the same rounds: held to the same codes in float32, their error against the weights as they were is told.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import statistics
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

import reference_impl
from bagel.batch import Batch
from bagel.latents import Grid
from bagel.layers import KV
from bagel.model import Bagel
from bagel.step import Graphs, Workspace
from bagel.transformer import Context
from benchmarks.harness import clock
from benchmarks.harness.baselines import Baseline, Way
from benchmarks.harness.impls import said
from benchmarks.harness.inputs import size_in_bytes
from benchmarks.harness.records import Ceilings, Provenance
from benchmarks.harness.storing import storing
from benchmarks.harness.synthetic import Draw
from reference_impl import contract
from reference_impl.contract import Experts, MoTOps
from reference_impl.tolerance import FACTOR, truth_dtype

P = typing.ParamSpec("P")


class Size(typing.NamedTuple):
    """What is denoised together: pictures of one size."""

    grid: Grid
    pictures: int = 1


SIZES = {1026: Size(Grid(32, 32)), 4098: Size(Grid(64, 64)), 8208: Size(Grid(32, 32), 8)}
"""Rows of a step, two markers per picture included: one of 512 x 512 pixels, one of 1024 x 1024, eight of 512 x 512."""

CONTEXT = 40
"""Rows of context: a prompt."""

FUSED, GUIDED = "fused", "fused, with a guidance branch"
COMPILED: dict[str, Way] = {
    "dense, compiled + graph": "dense",
    "gather/scatter, compiled + graph": "gather",
    "sorted, compiled + graph": "sorted",
}
EAGER = "gather/scatter, eager"


def fused_name(kind: str) -> str:
    """The fused step over layers of this kind, among the candidates: `fused, fp8`."""
    return FUSED if kind == "dense" else f"{FUSED}, {kind}"


@dataclass(frozen=True)
class Kernel:
    """One kernel of a step: how often it ran and for how many seconds."""

    name: str
    count: int
    seconds: float


@dataclass(frozen=True)
class QuantisedStep:
    """The fused step over quantised layers of one kind.

    linear_bytes         of all routed linear layers
    errors               relative L2 of velocities against the same codes in float32: fused and reference
    truth, truth_of_reference  the same against the weights as they were, in float32: what quantising costs
    kernels, span, busy  as StepPoint has them
    """

    linear_bytes: int
    errors: dict[str, float]
    truth: float
    truth_of_reference: float
    kernels: list[Kernel]
    span: float
    busy: float


@dataclass
class StepPoint:
    """One size. samples: candidate -> seconds of one step; failed: candidate -> why it has none.

    errors            relative L2 of velocities against the truth
    flops             of all rows through one expert, and attention
    weights_bytes     of the whole model, and of its quantised twins; cache_bytes: keys and values of the step
    linear_bytes      of all routed linear layers, not quantised
    peak_bytes        allocated at most while a step is made ready and made; reserved_bytes: what PyTorch then holds
    kernels           of one replay of the fused step, longest first
    span, busy        seconds from the first kernel to the last, and for how many of them one ran
    """

    m: int
    context: int
    flops: float
    weights_bytes: int = 0
    cache_bytes: int = 0
    peak_bytes: int = 0
    reserved_bytes: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)
    span: float = 0.0
    busy: float = 0.0
    linear_bytes: int = 0
    quantised: dict[str, QuantisedStep] = field(default_factory=dict)

    def median(self, candidate: str) -> float:
        """Seconds."""
        return statistics.median(self.samples[candidate])


@dataclass(frozen=True)
class StepTimes:
    """Everything of one run."""

    provenance: Provenance
    dtype: str
    layers: int
    ceilings: Ceilings
    points: list[StepPoint]


def flops_of(model: Bagel, m: int, context: int, pictures: int = 1) -> float:
    """Of a step's matrix products: M rows through one expert of each layer, and attention over context and rows.

    A row attends to its own picture's rows only.
    """
    first = model.transformer.layers[0]
    weights = sum(one.weight[0].numel() for one in (first.qkv, first.o, first.gate_up, first.down))
    attention = 4.0 * m * (m / pictures + context) * first.qk_norm.n_heads * first.qk_norm.head_dim
    return len(model.transformer.layers) * (2.0 * m * weights + attention)


def random_context(model: Bagel, rows: int, seed: int) -> Context:
    """Keys and values as large as normed ones are."""
    norm = model.transformer.layers[0].qk_norm
    draw = Draw(model.device, model.transformer.dtype, seed)
    shape = (rows, norm.n_kv_heads, norm.head_dim)
    layers = [
        KV(draw.normal(*shape, deviation=1.0), draw.normal(*shape, deviation=1.0)) for _ in model.transformer.layers
    ]
    return Context(tuple(layers), rows)


def true_model(model: Bagel) -> Bagel:
    """The reference in float32 over the same weights, widened layer by layer; keys and values are kept as they are.

    Quantised layers keep their codes and quantise their input: what is exact is the arithmetic between.
    """
    ops, dtype = reference_impl.OPS, truth_dtype(model.transformer.dtype)
    names = {field.name for field in dataclasses.fields(ops)} - {"name", "describe_tile"}
    wide: dict[str, typing.Any] = {name: functools.partial(_widely, getattr(ops, name), dtype) for name in names}
    wide["qk_norm_rotary"] = storing(wide["qk_norm_rotary"])
    latents = copy.deepcopy(model.latents).to(dtype)
    return dataclasses.replace(with_ops(model, dataclasses.replace(ops, **wide)), latents=latents)


def _widely(op: Callable[..., typing.Any], dtype: torch.dtype, *args: typing.Any) -> typing.Any:
    return op(*(_wide(arg, dtype) for arg in args))


def _wide(value: typing.Any, dtype: torch.dtype) -> typing.Any:
    """The argument of an op in `dtype`, codes as they are. Commits from before there were any have no scales."""
    rows: typing.Any = getattr(contract, "QuantisedRows", ())
    if isinstance(value, Experts) and getattr(value, "scale", None) is not None:
        return dataclasses.replace(value, bias=contract.upcast(value.bias, dtype))
    return dataclasses.replace(value, dtype=dtype) if isinstance(value, rows) else contract.upcast(value, dtype)


def with_ops(model: Bagel, ops: MoTOps) -> Bagel:
    """The same weights with another implementation."""
    return dataclasses.replace(model, transformer=dataclasses.replace(model.transformer, ops=ops))


@dataclass(frozen=True)
class Step:
    """What is computed: latents x [pictures * tokens, width] at time t (on the CPU), each behind a context of its own,
    all of the same rows, and behind none for guidance."""

    model: Bagel
    grid: Grid
    context: Context
    t: Tensor
    x: Tensor
    pictures: int = 1

    @classmethod
    def of(cls, model: Bagel, grid: Grid, rows: int = CONTEXT, pictures: int = 1) -> Step:
        """With random latents and context."""
        draw = Draw(model.device, torch.float32, 1)
        x = draw.normal(pictures * grid.n_tokens, model.config.latent_width, deviation=1.0)
        return cls(model, grid, random_context(model, rows, 2), torch.tensor(0.75), x, pictures)

    def call(self, model: Bagel, graphs: Graphs | None, guided: bool = False) -> Callable[[], Tensor]:
        """The step by a Workspace, as the pipeline makes it: [pictures * tokens, width], or twice as many if guided."""
        behind = [self.context, model.transformer.empty_context()] if guided else [self.context]
        batch = Batch.of([self.grid] * self.pictures, [behind] * self.pictures)
        workspace = Workspace(model, batch) if graphs is None else graphs.workspace(model, batch)
        workspace.load(behind * self.pictures)
        passes = tuple(range(len(batch.passes)))
        given = {picture: (self.t, x) for picture, x in enumerate(self.x.chunk(self.pictures))}
        return lambda: torch.cat(workspace.velocities(passes, given))

    def baseline(self, way: Way, compiled: bool) -> Callable[[], Tensor]:
        """The step by another way."""
        one = Baseline.of(self.model, way, self.grid, self.context, compiled, self.pictures)
        t = self.t.to(self.model.device)
        return lambda: one(t, self.x)


def distance(truly: Tensor, ours: Tensor) -> float:
    """Relative L2."""
    return float((ours.double() - truly.double()).norm() / truly.double().norm())


def prove(step: Step, ours: Callable[[], Tensor]) -> dict[str, float]:
    """Errors against the truth. Raises RuntimeError if ours is over twice the reference's, or a later call differs."""
    return errors_of(_proven(step, ours))


class Proven(typing.NamedTuple):
    """Velocities of a step that has passed: of the truth, of the reference and ours."""

    exact: Tensor
    reference: Tensor
    ours: Tensor


def errors_of(proven: Proven) -> dict[str, float]:
    """Relative L2 against the truth."""
    return {"reference": distance(proven.exact, proven.reference), FUSED: distance(proven.exact, proven.ours)}


def _proven(step: Step, ours: Callable[[], Tensor]) -> Proven:
    exact = step.call(true_model(step.model), None)()
    reference = step.call(with_ops(step.model, reference_impl.OPS), None)()
    calls = [ours() for _ in range(3)]  # as it is, captured and replayed, replayed
    proven = Proven(exact, reference, calls[0])
    errors = errors_of(proven)
    if not all(torch.equal(calls[0], later) for later in calls[1:]):
        apart = max(distance(calls[0], later) for later in calls[1:])
        raise RuntimeError(f"a replay of the step is {apart:.3g} from its first call (relative L2); it must be equal")
    if not errors[FUSED] <= FACTOR * errors["reference"]:
        raise RuntimeError(f"the step is {errors[FUSED]:.3g} from the truth, the reference {errors['reference']:.3g}")
    return proven


def linear_bytes(model: Bagel) -> int:
    """The memory of all routed linear layers: what quantising makes smaller."""
    layers = model.transformer.layers
    return size_in_bytes(tuple((layer.qkv, layer.o, layer.gate_up, layer.down) for layer in layers))


def quantised_step(step: Step, truth: Tensor, fused: Callable[[], Tensor]) -> QuantisedStep:
    """`step` over a quantised model, computed by `fused`; truth: its velocities over the weights as they were.

    Raises RuntimeError if the step is over twice as far as the reference from the same codes in float32, or from the
    truth, or if a later call differs.
    """
    proven = _proven(step, fused)
    ours, reference = distance(truth, proven.ours), distance(truth, proven.reference)
    if not ours <= FACTOR * reference:
        raise RuntimeError(f"the quantised step is {ours:.3g} from the truth, the reference {reference:.3g}")
    return QuantisedStep(linear_bytes(step.model), errors_of(proven), ours, reference, *profiled(fused))


def measure(
    model: Bagel, sizes: Sequence[int], rounds: int, ways: Sequence[str], quantised: Mapping[str, Bagel] | None = None
) -> Iterator[StepPoint]:
    """Each size twice: the fused step alone, then beside the ways, whose compilation takes longer than all the rest.

    quantised: kind -> the model with quantised layers. Raises RuntimeError for a step that is wrong.
    """
    weights_bytes = torch.cuda.memory_allocated()
    for m in sizes:
        point = StepPoint(m, CONTEXT, flops_of(model, m, CONTEXT, SIZES[m].pictures), weights_bytes)
        point.linear_bytes = linear_bytes(model)
        yield from _measure_size(model, point, rounds, ways, quantised or {})  # its end lets go of its graphs


def _measure_size(
    model: Bagel, point: StepPoint, rounds: int, ways: Sequence[str], quantised: Mapping[str, Bagel]
) -> Iterator[StepPoint]:
    grid, pictures = SIZES[point.m]
    step = Step.of(model, grid, pictures=pictures)
    _measure_memory(step, point)
    graphs = Graphs(2 + len(quantised))
    fused = step.call(model, graphs)
    proven = _proven(step, fused)
    point.errors = errors_of(proven)
    torch.cuda.empty_cache()
    calls = {FUSED: fused, GUIDED: step.call(model, graphs, guided=True)}
    point.kernels, point.span, point.busy = profiled(fused)
    for kind, other in quantised.items():
        name = fused_name(kind)
        calls[name] = step.call(other, graphs)
        point.quantised[kind] = quantised_step(dataclasses.replace(step, model=other), proven.exact, calls[name])
        torch.cuda.empty_cache()
    point.samples = interleaved(calls, 3)
    yield point
    calls[EAGER] = flashed(step.baseline("gather", compiled=False))
    for name in ways:
        try:
            calls[name] = captured(step.baseline(COMPILED[name], compiled=True))
        except Exception as error:  # a compiler may raise anything, and the other ways are still worth measuring
            point.failed[name] = said(error)
    point.samples = interleaved(calls, rounds)
    yield point


def _measure_memory(step: Step, point: StepPoint) -> None:
    """Of a workspace that is made, called, captured and replayed."""
    gc.collect()  # workspaces and what keeps them know each other
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    workspace_call = step.call(step.model, Graphs(1))
    point.cache_bytes = torch.cuda.memory_allocated() - before

    def calls() -> None:
        for _ in range(3):
            workspace_call()

    point.peak_bytes = clock.peak_memory(calls, "cuda")
    point.reserved_bytes = torch.cuda.memory_reserved()


def interleaved(calls: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call, all in turn; the first two rounds warm up."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 2):
        for name, call in calls.items():
            seconds = clock.replay_seconds(_Replays(call), 2)
            if round_ >= 2:
                samples[name].append(seconds)
    return samples


@dataclass(frozen=True)
class _Replays:
    """A call as what `clock.replay_seconds` replays."""

    replay: Callable[[], Tensor]


def flashed(call: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """With FlashAttention, which the public code uses."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def calling(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return call(*args, **kwargs)

    return calling


def captured(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """As a CUDA graph, with the fastest attention that the fused step has too."""
    from torch.nn.attention import sdpa_kernel

    from mot_impl.attention import FUSED_FIRST

    stream: typing.Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with sdpa_kernel(FUSED_FIRST, set_priority=True), torch.cuda.stream(stream):
        for _ in range(3):
            call()
        graph = clock.capture([call], 1)
    torch.cuda.current_stream().wait_stream(stream)

    def replay() -> Tensor:
        graph.replay()
        velocity: Tensor = graph.results[0]
        return velocity

    return replay


def profiled(call: Callable[[], Tensor]) -> tuple[list[Kernel], float, float]:
    """The kernels of one call, longest first; the seconds that they span, and those in which one ran."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    events = [one for one in seen.events() or [] if str(one.device_type).endswith("CUDA")]
    spans = sorted((one.time_range.start, one.time_range.end) for one in events)
    if not spans:
        return [], 0.0, 0.0
    by_name: dict[str, list[float]] = {}
    for one in events:
        by_name.setdefault(one.name, []).append((one.time_range.end - one.time_range.start) * 1e-6)
    busy, end = 0.0, spans[0][0]
    for begin, stop in spans:
        busy += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    kernels = [Kernel(name, len(each), sum(each)) for name, each in by_name.items()]
    kernels.sort(key=lambda kernel: -kernel.seconds)
    return kernels, (end - spans[0][0]) * 1e-6, busy * 1e-6
