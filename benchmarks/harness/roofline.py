"""The routed linear layers against every other way to compute them, and against what the card can do.

Candidates of one point are measured in turn, replay by replay, on the same data: clocks and temperature move all of
them alike, so ratios mean more than times. Weights rotate, so that L2 holds none. docs/kernels.md names the ways.
"""

from __future__ import annotations

import functools
import statistics
import typing
from collections.abc import Callable, Iterator, Sequence

from benchmarks.harness import clock, gate, inputs
from benchmarks.harness.records import DENSE, FUSED, GATHER, Ceilings, RooflinePoint
from benchmarks.harness.shapes import BAGEL, LAYERS, SHAPES, Shape

if typing.TYPE_CHECKING:
    import torch

    from reference_impl.contract import Experts, MoTOps, Route

COMPILED, SORTED, GROUPED = "dense, SiLU compiled", "two cuBLAS, sorted", "torch._grouped_mm"
COPY = "copy"
SIZES = SHAPES | {str(m): BAGEL.rows(m, m) for m in (1, 16, 64)}
"""The suite's, and rows of text only, as understanding has them."""

MEMORY_OPS = ("rms_norm", "head_rms_norm", "add_rms_norm", "qk_norm_rotary")

ROUNDS = 15
MATRIX = 8192
"""Side of the square product that stands for the card's matrix rate."""
COPY_BYTES = 1 << 30


def geometric_mean(ratios: Sequence[float]) -> float:
    """Of positive numbers."""
    return statistics.geometric_mean(ratios)


def ceilings(dtype: torch.dtype) -> Ceilings:
    """Measure both on the current CUDA device, on random data: zeros would run faster than any real data."""
    import torch

    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=dtype) for _ in range(2))
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    found = interleaved({"matrix": [lambda: a @ b], "copy": [lambda: target.copy_(source)]}, ROUNDS)
    matrix, copy = (statistics.median(found[name]) for name in ("matrix", "copy"))
    return Ceilings(2 * MATRIX**3 / matrix, 2 * COPY_BYTES / copy)


def measure(
    ops: MoTOps, sizes: Sequence[str], layers: Sequence[str], dtype: torch.dtype, rounds: int = ROUNDS
) -> Iterator[RooflinePoint]:
    """A point for each layer at each size (a name of SIZES), then the memory-bound ops at the last size.

    Raises ValueError for an unknown name, RuntimeError if `ops` disagrees with the reference.
    """
    for size in sizes:
        for layer in layers:
            yield layer_point(ops, _shape(size), layer, dtype, rounds)
    for op in MEMORY_OPS:
        yield memory_point(ops, _shape(sizes[-1]), op, dtype, rounds)


def layer_point(ops: MoTOps, shape: Shape, layer: str, dtype: torch.dtype, rounds: int) -> RooflinePoint:
    """One routed layer, rows sorted; qkv with bias and gate_up with SiLU(gate) * up, as BAGEL has them."""
    import torch

    if layer not in LAYERS:
        raise ValueError(f"layer {layer!r} is not one of {', '.join(LAYERS)}")
    work = inputs.Work("gated_linear") if layer == "gate_up" else inputs.Work("linear", layer)
    case = inputs.bagel_case(shape)
    device = _device()
    first = inputs.arguments(work, case, dtype, device)
    gate.prove(ops, work.op, first)
    torch.cuda.empty_cache()
    copies = _copies(first)
    x, weight, route = first[0], first[1].weight, first[2]
    calls = _ways(ops, work.op, [first, *(inputs.copied(first) for _ in range(copies - 1))])
    n_out = weight.shape[1] // (2 if layer == "gate_up" else 1)
    used = sum(1 for rows in (route.n_text, route.n_image) if rows)
    moved = x.numel() + weight[0].numel() * used + x.shape[0] * n_out
    return RooflinePoint(
        m=shape.m,
        n_text=shape.n_text,
        name=layer,
        tile=ops.describe_tile(inputs.problem(work, shape, dtype, device, image_first=True)),
        flops=2.0 * x.shape[0] * weight[0].numel(),
        bytes=float(moved * x.element_size()),
        samples=interleaved(calls, rounds),
    )


def memory_point(ops: MoTOps, shape: Shape, op: str, dtype: torch.dtype, rounds: int) -> RooflinePoint:
    """An op that only moves bytes, beside a copy of as many."""
    import torch

    case, work = inputs.bagel_case(shape), inputs.Work(op)
    device = _device()
    first = inputs.arguments(work, case, dtype, device)
    gate.prove(ops, op, first)
    every = [first, *(inputs.copied(first) for _ in range(_copies(first) - 1))]
    results = getattr(ops, op)(*first)
    # v of qk_norm_rotary is a view of the input: nothing is read or written for it.
    given = {one.untyped_storage().data_ptr() for one in inputs.tensors_of(first)}
    written = [
        one
        for one in (results if isinstance(results, tuple) else (results,))
        if one.untyped_storage().data_ptr() not in given
    ]
    moved = sum(one.numel() * one.element_size() for one in written) * 2
    sources = [torch.randn(moved // 2 // dtype.itemsize, device=device, dtype=dtype) for _ in every]
    calls: dict[str, list[clock.Call]] = {
        FUSED: [functools.partial(getattr(ops, op), *arguments) for arguments in every],
        COPY: [functools.partial(torch.clone, source) for source in sources],
    }
    tile = ops.describe_tile(inputs.problem(work, shape, dtype, device))
    return RooflinePoint(shape.m, shape.n_text, op, tile, 0.0, float(moved), interleaved(calls, rounds))


def interleaved(candidates: dict[str, list[clock.Call]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call: one CUDA graph per candidate over all its calls, replayed in turn."""
    import torch

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
                seconds = clock.replay_seconds(graph, 1) / len(candidates[name])
                if round_ >= 2:  # the first two warm up
                    samples[name].append(seconds)
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
