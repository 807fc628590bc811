"""The subjects on the GPU's own scale: one op of the contract, and one decoder layer."""

from __future__ import annotations

import dataclasses
import functools
import typing

from benchmarks.harness import clock
from benchmarks.harness.impls import REFERENCE, load_impl
from benchmarks.harness.shapes import LAYERS, SHAPES
from benchmarks.harness.subject import Subject

if typing.TYPE_CHECKING:
    import torch

    from bagel.layers import KV, Block, MoTLayer
    from benchmarks.harness.shapes import Shape
    from reference_impl.contract import Kind, MoTOps

Place = tuple["torch.device", "torch.dtype"]


def one_op(op: str, part: str, series: dict[str, str], place: Place) -> Subject:
    """One op of the contract, `part` naming a linear layer; series has impl, shape and perhaps cache and dtype.

    A dtype is that of quantised experts, fp8 rows being quantised before anything is measured.

    For a cold cache there are as many copies of the inputs as clock.copies_for_cold asks for.
    """
    import torch

    from benchmarks.harness import inputs

    device, dtype = place
    ops, shape, work = load_impl(series["impl"]), SHAPES[series["shape"]], inputs.Work(op, part)
    kind = series.get("dtype", "dense")
    first = inputs.quantised(inputs.arguments(work, inputs.bagel_case(shape), dtype, device), kind)
    copies = 1
    if series.get("cache") == "cold":
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        copies = clock.copies_for_cold(inputs.size_in_bytes(first), l2_bytes)
    every = [first, *(inputs.copied(first) for _ in range(copies - 1))]
    return Subject(
        calls=[functools.partial(getattr(ops, op), *arguments) for arguments in every],
        device=device.type,
        # The reference is the specification: it has nothing to prove.
        prove=(lambda: None) if series["impl"] == REFERENCE else functools.partial(_prove, ops, op, first, kind),
        tile=ops.describe_tile(inputs.problem(work, shape, dtype, device, inputs.in_blocks(first), kind)),
    )


def _prove(ops: MoTOps, op: str, first: tuple[typing.Any, ...], kind: str) -> None:
    from benchmarks.harness import gate

    if kind == "dense":
        gate.prove(ops, op, first)
        return
    from benchmarks.harness import scaled_products

    gate.prove(ops, op, first, scaled_products.ordinary(op, first))


def layer(series: dict[str, str], place: Place) -> Subject:
    """One decoder layer of `bagel` behind a short context; series has impl, shape and perhaps the experts' dtype.

    Its weights are larger than any cache, so one copy is as cold as it gets.
    """
    import reference_impl
    from bagel.layers import decoder_layer
    from bagel.probe import QUIET

    device, dtype = place
    ops = load_impl(series["impl"])
    kind = series.get("dtype", "dense")
    weights, x, block, past = _layer_inputs(series["shape"], place, kind)

    def run(ops: MoTOps = ops) -> torch.Tensor:
        return decoder_layer(ops, weights, x, block, past, QUIET)[0]

    def prove() -> None:
        from reference_impl.contract import upcast
        from reference_impl.tolerance import judge, truth_dtype

        if series["impl"] == REFERENCE:
            return
        wide = functools.partial(_wide, dtype=truth_dtype(dtype))
        exact = decoder_layer(
            reference_impl.OPS, wide(weights), upcast(x, truth_dtype(dtype)), wide(block), wide(past), QUIET
        )[0]
        found = judge(run(), run(reference_impl.OPS), exact)
        if not found.ok:
            raise RuntimeError(f"{ops.name}: the decoder layer disagrees with the reference: {found}")

    tiles = tiles_of(ops, SHAPES[series["shape"]], dtype, device, block.route.image_first, kind)
    return Subject([run], device.type, prove, tiles)


def tiles_of(
    ops: MoTOps, shape: Shape, dtype: torch.dtype, device: torch.device, in_blocks: bool, kind: str = "dense"
) -> str:
    """Which tiles a decoder layer of that shape uses, and from where; in_blocks: its rows are [image, text]."""
    from benchmarks.harness import inputs

    works = {"qkv": inputs.Work("linear", "qkv"), "o": inputs.Work("linear", "o"), "mlp": inputs.Work("gated_mlp")}
    problems = {name: inputs.problem(work, shape, dtype, device, in_blocks, kind) for name, work in works.items()}
    return "; ".join(f"{name} {ops.describe_tile(problem)}" for name, problem in problems.items())


def _layer_inputs(shape_name: str, place: Place, kind: str) -> tuple[MoTLayer, torch.Tensor, Block, KV]:
    from bagel.layers import KV, Block, MoTLayer
    from benchmarks.harness import inputs

    device, dtype = place
    shape = SHAPES[shape_name]
    draw = inputs.Draw(inputs.bagel_case(shape), dtype, device)
    weights = MoTLayer(
        input_gain=draw.gain("input_gain", shape.hidden),
        qkv=draw.experts("qkv"),
        qk_norm=draw.qk_norm(),
        o=draw.experts("o"),
        post_gain=draw.gain("post_gain", shape.hidden),
        gate_up=draw.experts("gate_up"),
        down=draw.experts("down"),
        eps=inputs.EPS,
    )
    if kind != "dense":
        from reference_impl.quantise import quantise

        layers: dict[str, typing.Any] = {
            name: quantise(getattr(weights, name), typing.cast("Kind", kind)) for name in LAYERS
        }
        weights = dataclasses.replace(weights, **layers)
    past = KV(*(draw.normal(name, inputs.CONTEXT, shape.n_kv_heads, shape.head_dim) for name in ("past_k", "past_v")))
    return weights, draw.x(shape.hidden), Block(draw.route(), draw.table(), causal=False, advance=1), past


def _wide(value: typing.Any, dtype: torch.dtype) -> typing.Any:
    """A dataclass of bagel with every tensor in `dtype`."""
    from reference_impl.contract import upcast

    fields = {field.name: upcast(getattr(value, field.name), dtype) for field in dataclasses.fields(value)}
    return dataclasses.replace(value, **fields)
