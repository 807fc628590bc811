"""The routed linear layers against every other way to compute them, and against what the card can do.

Candidates of one point are measured in turn, replay by replay, on the same data: clocks and temperature move all of
them alike, so ratios mean more than times. Weights rotate, so that L2 holds none. docs/kernels.md names the ways.
"""

from __future__ import annotations

import functools
import statistics
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.harness import clock, gate, gpu_clock, inputs
from benchmarks.harness import explain as explaining
from benchmarks.harness.records import COPY, DENSE, FUSED, GATHER, Ceilings, RooflinePoint
from benchmarks.harness.shapes import BAGEL, LAYERS, SHAPES, Shape

if typing.TYPE_CHECKING:
    import torch

    from mot_impl.tiles import TileTable
    from reference_impl.contract import Experts, MoTOps, Problem, Route

COMPILED, SORTED, GROUPED = "dense, SiLU compiled", "two cuBLAS, sorted", "torch._grouped_mm"
SIZES = SHAPES | {str(m): BAGEL.rows(m, m) for m in (1, 16, 64)}
"""The suite's, and rows of text only, as understanding has them."""

KINDS = ("dense", "fp8", "int8")
"""Of experts, as the contract names them."""

DEFAULT_SIZES = {kind: tuple(SHAPES)[1:] for kind in KINDS} | {"int8": ("1", "16", "64", *tuple(SHAPES)[1:])}
"""BAGEL's pictures; of int8, whose claim is memory, the few rows of understanding too."""

EXACT, UNQUANTISED, RULE = "fused, exact sums", "fused, dense experts", "fused, the rule's tile"
SCALED, SCALED_EXACT = "torch._scaled_mm, fast sums", "torch._scaled_mm, exact sums"

MEMORY_OPS = {
    "dense": ("rms_norm", "head_rms_norm", "add_rms_norm", "qk_norm_rotary"),
    "fp8": ("quantise_rows", "quantise_rows/down", "quantised_rms_norm", "quantised_add_rms_norm"),
    "int8": (),
}
"""By kind. quantise_rows/down: rows as wide as down reads them."""

ROUNDS = 15
MATRIX = 8192
"""Side of the square product that stands for the card's matrix rate."""
COPY_BYTES = 1 << 30


def geometric_mean(ratios: Sequence[float]) -> float:
    """Of positive numbers."""
    return statistics.geometric_mean(ratios)


@dataclass(frozen=True)
class Measured:
    """What a roofline is measured of.

    ops, dtype  the implementation, and the dtype of rows and dense weights
    exact       the implementation with fp8 sums in float32 beside its fast ones; None: it has no choice
    rule        the implementation with the rule's tiles, measured too where `ops` has others; None: it has no choice
    table       the tile table of `ops`, if launches are to be explained (benchmarks/harness/explain.py)
    """

    ops: MoTOps
    dtype: torch.dtype
    rounds: int = ROUNDS
    exact: MoTOps | None = None
    rule: MoTOps | None = None
    table: TileTable | None = None


def ceilings(dtype: torch.dtype, kinds: Sequence[str] = ("dense",)) -> Ceilings:
    """Measure them on the current CUDA device, on random data: zeros would run faster than any real data."""
    import torch

    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=dtype) for _ in range(2))
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    calls: dict[str, list[clock.Call]] = {"matrix": [lambda: a @ b], "copy": [lambda: target.copy_(source)]}
    if "fp8" in kinds:
        a8, b8, one = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn), torch.ones((), device="cuda")
        calls["fp8"] = [
            lambda: torch._scaled_mm(a8, b8.t(), scale_a=one, scale_b=one, out_dtype=dtype, use_fast_accum=True)
        ]
    found = {name: statistics.median(seconds) for name, seconds in interleaved(calls, ROUNDS).items()}
    flops = 2.0 * MATRIX**3
    return Ceilings(
        flops / found["matrix"], 2 * COPY_BYTES / found["copy"], flops / found["fp8"] if "fp8" in found else None
    )


def refuse_unknown(sizes: Sequence[str], layers: Sequence[str], kinds: Sequence[str]) -> None:
    """Raise ValueError for a name that is unknown, before minutes are spent on those in front of it."""
    for what, names, known in (("size", sizes, SIZES), ("layer", layers, LAYERS), ("kind", kinds, KINDS)):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{what} {unknown[0]!r} is not one of {', '.join(known)}")


def measure(
    of: Measured, sizes: Sequence[str], layers: Sequence[str], limits: Ceilings, kind: str = "dense"
) -> Iterator[RooflinePoint]:
    """A point for each layer at each size (a name of SIZES), then the memory-bound ops at the last size.

    Raises ValueError for an unknown name, RuntimeError if the implementation disagrees with the reference.
    """
    refuse_unknown(sizes, layers, [kind])
    for size in sizes:
        for layer in layers:
            yield layer_point(of, _shape(size), layer, limits, kind)
    for op in MEMORY_OPS[kind]:
        yield memory_point(of, _shape(sizes[-1]), op)


def layer_point(of: Measured, shape: Shape, layer: str, limits: Ceilings, kind: str = "dense") -> RooflinePoint:
    """One routed layer, rows sorted; qkv with bias and gate_up with SiLU(gate) * up, as BAGEL has them.

    Experts that are quantised are measured beside the same in `of.dtype`, fp8 rows quantised before.
    """
    import torch

    if layer not in LAYERS:
        raise ValueError(f"layer {layer!r} is not one of {', '.join(LAYERS)}")
    work = inputs.Work("gated_linear") if layer == "gate_up" else inputs.Work("linear", layer)
    device = _device()
    dense = inputs.arguments(work, inputs.bagel_case(shape), of.dtype, device)
    first = inputs.quantised(dense, kind)
    for ops, ordinary in _judged(of, work.op, first, kind):
        gate.prove(ops, work.op, first, ordinary)
    torch.cuda.empty_cache()
    every = [first, *(inputs.copied(first) for _ in range(_copies(first) - 1))]
    if kind == "dense":
        calls = _ways(of.ops, work.op, every)
    else:
        calls = _quantised_ways(of, work.op, every, [dense, *(inputs.copied(dense) for _ in every[1:])])
    x, experts, route = first
    rows = x if isinstance(x, torch.Tensor) else x.values
    problem = inputs.problem(work, shape, of.dtype, device, image_first=True, kind=kind)
    if of.rule is not None and _tile(of.rule, problem) != _tile(of.ops, problem):
        calls[RULE] = [functools.partial(getattr(of.rule, work.op), *one) for one in every]
    launch = _explained(of, work.op, problem, route)
    blocks = torch.cuda.get_device_properties(device).multi_processor_count
    if launch is not None:
        plan = launch.plan((route.n_text, route.n_image), problem.k, launch.tile.pieces, blocks)
        calls |= launch.variants(every, explaining.pieces_of(plan))
        if kind == "dense":
            image = slice(0, route.n_image)
            calls[explaining.DENSE_IMAGE] = [functools.partial(_dense, one[0][image], one[1], route) for one in every]
    mhz: dict[str, list[int]] = {}
    samples = interleaved(calls, of.rounds, mhz if launch is not None else None)
    told = None
    if launch is not None:
        told = explaining.explain(launch, route, blocks, samples, mhz, limits, rival_of(samples))
    n, k = experts.n_out, experts.n_in
    used = sum(1 for rows in (route.n_text, route.n_image) if rows)
    written = shape.m * (n // 2 if layer == "gate_up" else n) * of.dtype.itemsize
    return RooflinePoint(
        m=shape.m,
        n_text=shape.n_text,
        name=layer,
        tile=of.ops.describe_tile(problem),
        flops=2.0 * shape.m * n * k,
        bytes=float(rows.numel() * rows.itemsize + used * n * k * experts.weight.itemsize + written),
        samples={name: found for name, found in samples.items() if name not in explaining.VARIANTS},
        kind=kind,
        explained=told,
    )


def rival_of(names: Collection[str]) -> str:
    """What fused is explained beside: PyTorch's product of fp8, where it was measured (it has none of float16), else
    dense, which always is."""
    return SCALED if SCALED in names else DENSE


def _tile(ops: MoTOps, problem: Problem) -> str:
    """Which tile, without where it came from."""
    return ops.describe_tile(problem).partition(" (")[0]


def _judged(
    of: Measured, op: str, first: tuple[typing.Any, ...], kind: str
) -> Iterator[tuple[MoTOps, Callable[..., object] | None]]:
    """What to prove, each with PyTorch's way of the same arithmetic where that is not the reference's."""
    if kind == "dense":
        yield of.ops, None
        return
    from benchmarks.harness import scaled_products

    yield of.ops, scaled_products.ordinary(op, first)
    if kind == "fp8" and of.exact is not None:
        yield of.exact, None


def _explained(of: Measured, op: str, problem: Problem, route: Route) -> explaining.Launch | None:
    """The launch whose parts are measured; None if that was not asked for, or of another kernel or no image rows."""
    if of.table is None or not route.n_image:
        return None
    import mot_impl

    return explaining.Launch.of(op, problem, of.table, mot_impl.fused_ops)


def memory_point(of: Measured, shape: Shape, name: str) -> RooflinePoint:
    """An op that only moves bytes, beside a copy of as many."""
    import torch

    op, _, part = name.partition("/")
    work, device = inputs.Work(op, part), _device()
    first = inputs.arguments(work, inputs.bagel_case(shape), of.dtype, device)
    gate.prove(of.ops, op, first)
    every = [first, *(inputs.copied(first) for _ in range(_copies(first) - 1))]
    moved = _moved(op, first, getattr(of.ops, op)(*first))
    sources = [torch.randn(moved // 2 // of.dtype.itemsize, device=device, dtype=of.dtype) for _ in every]
    calls: dict[str, list[clock.Call]] = {
        FUSED: [functools.partial(getattr(of.ops, op), *arguments) for arguments in every],
        COPY: [functools.partial(torch.clone, source) for source in sources],
    }
    tile = of.ops.describe_tile(inputs.problem(work, shape, of.dtype, device))
    samples = interleaved(calls, of.rounds)
    return RooflinePoint(shape.m, shape.n_text, name, tile, 0.0, float(moved), samples)


def _moved(op: str, arguments: tuple[typing.Any, ...], results: typing.Any) -> int:
    """Bytes read and written. v of qk_norm_rotary is a view of the input: nothing is read or written for it."""
    given = {one.untyped_storage().data_ptr() for one in inputs.tensors_of(arguments)}
    written = sum(
        one.numel() * one.element_size()
        for one in inputs.tensors_of(results if isinstance(results, tuple) else (results,))
        if one.untyped_storage().data_ptr() not in given
    )
    if not op.startswith("quantise"):
        return 2 * written
    rows = 2 if op == "quantised_add_rms_norm" else 1
    return written + rows * int(arguments[0].numel()) * int(arguments[0].element_size())


def interleaved(
    candidates: dict[str, list[clock.Call]], rounds: int, mhz: dict[str, list[int]] | None = None
) -> dict[str, list[float]]:
    """Seconds per call: one CUDA graph per candidate over all its calls, replayed in turn.

    mhz, if given, is filled with the SM clock at each sample, where it can be read.
    """
    import torch

    read = None if mhz is None else gpu_clock.watch()

    stream: typing.Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graphs = {}
        for name, calls in candidates.items():
            for call in calls * 2:  # compiles, and fills the allocator, which a capture must not do
                call()
            graphs[name] = clock.capture(calls, len(calls))
        samples: dict[str, list[float]] = {name: [] for name in graphs}
        for round_ in range(rounds + 2):
            for name, graph in graphs.items():
                seen: list[int] = []
                look = (lambda: None) if read is None else (lambda seen=seen: seen.append(read().sm_mhz))
                seconds = clock.replay_seconds(graph, 1, look) / len(candidates[name])
                if round_ >= 2:  # the first two warm up
                    samples[name].append(seconds)
                    if mhz is not None:
                        mhz.setdefault(name, []).extend(seen)
    return samples


def _shape(size: str) -> Shape:
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not one of {', '.join(SIZES)}")
    return SIZES[size]


def _device() -> torch.device:
    import torch

    return torch.device("cuda", torch.cuda.current_device())


def _copies(first: tuple[typing.Any, ...]) -> int:
    import torch

    l2_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return clock.copies_for_cold(inputs.size_in_bytes(first), l2_bytes)


def _ways(ops: MoTOps, op: str, every: list[tuple[typing.Any, ...]]) -> dict[str, list[clock.Call]]:
    """Every way to compute the layer that a graph can hold. The other ways of gate_up stop before SiLU * up, but for
    the compiled one."""
    import torch

    import reference_impl

    plans: dict[str, Callable[..., object]] = {
        FUSED: getattr(ops, op),
        DENSE: _dense,
        GATHER: reference_impl.OPS.linear,
        SORTED: _two_products,
    }
    ways: dict[str, list[clock.Call]] = {}
    for name, plan in plans.items():
        ways[name] = [functools.partial(plan, *one) for one in every]
    x: torch.Tensor = every[0][0]
    if x.is_cuda and groups_on_the_device(x.dtype, torch.cuda.get_device_capability(x.device)):
        ways[GROUPED] = [_grouped(*one) for one in every]
    if op == "gated_linear":
        ways[COMPILED] = [functools.partial(_compiled_gated(), one[0], one[1].weight[1]) for one in every]
    return ways


def _quantised_ways(
    of: Measured, op: str, every: list[tuple[typing.Any, ...]], dense: list[tuple[typing.Any, ...]]
) -> dict[str, list[clock.Call]]:
    """The same layer with quantised experts, with dense ones, and as PyTorch multiplies without routing."""
    from benchmarks.harness import scaled_products

    ways: dict[str, list[clock.Call]] = {FUSED: [functools.partial(getattr(of.ops, op), *one) for one in every]}
    fp8 = every[0][1].kind == "fp8"
    if fp8 and of.exact is not None:
        ways[EXACT] = [functools.partial(getattr(of.exact, op), *one) for one in every]
    ways[UNQUANTISED] = [functools.partial(getattr(of.ops, op), *one) for one in dense]
    ways[DENSE] = [functools.partial(_dense, *one) for one in dense]
    if fp8 and scaled_products.can(every[0][0], every[0][1]):
        ways[SCALED] = [functools.partial(scaled_products.one_expert, one[0], one[1], "fast") for one in every]
        ways[SCALED_EXACT] = [functools.partial(scaled_products.one_expert, one[0], one[1], "exact") for one in every]
    return ways


def _dense(x: torch.Tensor, experts: Experts, route: Route) -> torch.Tensor:
    """All rows through the image expert: what the layer would cost if routing were free."""
    import torch.nn.functional as F

    return F.linear(x, experts.weight[1], None if experts.bias is None else experts.bias[1])


def _two_products(x: torch.Tensor, experts: Experts, route: Route) -> torch.Tensor:
    """Sorted rows: each expert's product straight into its rows of the result."""
    import torch

    y = x.new_empty(x.shape[0], experts.n_out)
    for expert, rows in ((1, slice(0, route.n_image)), (0, slice(route.n_image, None))):
        if experts.bias is None:
            torch.mm(x[rows], experts.weight[expert].T, out=y[rows])
        else:
            torch.addmm(experts.bias[expert], x[rows], experts.weight[expert].T, out=y[rows])
    return y


def groups_on_the_device(dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    """Whether PyTorch has a grouped product for this: as of 2.11, bfloat16 on Hopper and data-center Blackwell.

    Otherwise `torch._grouped_mm` copies the offsets to the host and loops over them (ATen's `_grouped_mm_fallback`),
    which a CUDA graph cannot capture: it is not measured there.
    """
    import torch

    return dtype == torch.bfloat16 and capability[0] in (9, 10)


def _grouped(x: torch.Tensor, experts: Experts, route: Route) -> clock.Call:
    """PyTorch's grouped product, without bias: it takes none."""
    import torch

    ends = torch.tensor([route.n_image, route.n_rows], dtype=torch.int32, device=x.device)
    weight = experts.weight.flip(0).contiguous()
    return lambda: torch._grouped_mm(x, weight.transpose(-2, -1), offs=ends)


@functools.cache
def _compiled_gated() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    import torch
    import torch.nn.functional as F

    def gated(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        gate, up = F.linear(x, weight).chunk(2, dim=-1)
        return F.silu(gate) * up

    return torch.compile(gated, dynamic=False)
