"""Implementations that are right by construction and round differently: what any change of a kernel may do.

All are made of the reference. What is judged is never among them: a wrong kernel would widen its own limits. So tiles
and split-K orders are re-enacted here in plain PyTorch, and other libraries are those that PyTorch can be told to use.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import reference_impl
from benchmarks.harness.good_sums import as_taken, kind_of, tiled
from benchmarks.harness.storing import storing
from reference_impl.contract import Experts, MoTOps, Route, upcast
from reference_impl.tolerance import HALF, truth_dtype

if typing.TYPE_CHECKING:  # commits from before there were quantised experts have none of these
    from reference_impl.contract import Kind, QuantisedRows, Rows

MOVED = 0.5
"""Share of a result's elements that `reordered` moves by one unit in the last place, unless told otherwise."""

MOVED_IN_HALF = (0.02, 0.1)
"""The same in half precision, where sums are float32 and another order of one changes few results."""

NAMES = ("linear", "rms_norm", "head_rms_norm", "rotary", "gated_linear", "gated_mlp", "attention")
"""Ops of the contract that return one tensor. What becomes of rms_norm becomes of add_rms_norm: by_norm."""

BATCHES = ((2, 1), (3, 0))
"""Pictures that are made together, and which of them is judged."""


@dataclass(frozen=True)
class Variant:
    """One known-good way to compute.

    family    what kind of difference it is
    ops       makes the implementation, afresh for each run: some draw from a generator that goes on
    settings  settings of PyTorch while it runs
    dtype     the precision of the whole model if it is not the judged one
    batch     pictures that are made together, the others from other seeds, and the place of this one among them
    """

    family: str
    name: str
    ops: Callable[[], MoTOps]
    settings: Callable[[], AbstractContextManager[None]] = nullcontext
    dtype: torch.dtype | None = None
    batch: tuple[int, int] = (1, 0)


def variants(count: int, device: torch.device, dtype: torch.dtype, quantise: Kind | None = None) -> list[Variant]:
    """`count` known-good ways to compute in `dtype` on `device`, the families in turn; the same for the same arguments.

    wider         the whole model in the wider dtype, once: a more exact kernel is no fault
    tiles         the sum over K in blocks, in another order, split in parts: what a tile, a split-K or an atomic does
    rounded once  some ops, at first all, in the wider dtype and rounded once: what fusing ops does
    library       PyTorch's own alternatives: threads, attention, convolutions, on a GPU cuBLAS too
    batch         the picture beside others, first or last
    moved         a share of every op's results moved by one unit in the last place: another library's functions
    accumulator   of fp8 only: sums in as many bits as Hopper's tensor cores keep
    """
    wider = truth_dtype(dtype)
    made = [Variant("wider", f"whole model in {str(wider).removeprefix('torch.')}", _reference, dtype=wider)]
    families = [
        [Variant("tiles", f"tiles {seed}", partial(tiled, seed)) for seed in range(count)],
        [Variant("rounded once", f"rounded once {seed}", partial(rounded_once, seed)) for seed in range(count)],
        libraries(device),
        [
            Variant("batch", f"{place + 1} of a batch of {size}", _reference, batch=(size, place))
            for size, place in BATCHES
        ],
    ]
    for share in MOVED_IN_HALF if dtype in HALF else (MOVED,):
        name = f"{share:.0%} moved"
        families.append([Variant("moved", f"{name} {seed}", partial(reordered, seed, share)) for seed in range(count)])
    if quantise == "fp8":
        families.append(
            [Variant("accumulator", f"short sums {seed}", partial(tiled, seed, True)) for seed in range(count)]
        )
    rounds = itertools.zip_longest(*families)
    made += [variant for each in rounds for variant in each if variant is not None]
    return made[:count]


def libraries(device: torch.device) -> list[Variant]:
    """What PyTorch can be told to use instead of its defaults on this device."""
    if device.type == "cpu":
        settings: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "two threads": partial(threads, 2),
            "plain attention": partial(sdpa_kernel, SDPBackend.MATH),
            "plain convolutions": partial(switched, torch.backends.mkldnn, enabled=False),
        }
    else:
        settings = {
            "plain attention": partial(sdpa_kernel, SDPBackend.MATH),
            "memory-efficient attention": partial(attention_first, SDPBackend.EFFICIENT_ATTENTION),
            "cuDNN attention": partial(attention_first, SDPBackend.CUDNN_ATTENTION),
            "cuBLASLt": partial(blas, "cublaslt"),
            "cuBLAS without reduced sums": whole_sums,
        }
    return [Variant("library", name, _reference, setting) for name, setting in settings.items()]


def _reference() -> MoTOps:
    return reference_impl.OPS


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch's own threads, and as many as before at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def attention_first(backend: SDPBackend) -> AbstractContextManager[None]:
    """This attention kernel, and PyTorch's plain one for what it cannot do."""
    return sdpa_kernel([backend, SDPBackend.MATH], set_priority=True)


@contextmanager
def switched(owner: typing.Any, **values: bool) -> Iterator[None]:
    """These settings of a module of PyTorch, and what they were at the end."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def blas(name: str) -> Iterator[None]:
    """Another library for matrix products on a GPU."""
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(name)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


def whole_sums() -> AbstractContextManager[None]:
    """No sums in half precision inside cuBLAS's split-K."""
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    return switched(torch.backends.cuda.matmul, **dict.fromkeys(names, False))


@dataclass(frozen=True)
class Jitter:
    """Moves a share of all elements by one unit in the last place, up or down, as another order of a sum might.

    generator  on the CPU, so that a seed means the same on every device
    """

    generator: torch.Generator
    share: float = MOVED

    def __call__(self, exact: Tensor) -> Tensor:
        """A result of the same shape and dtype."""
        drawn = torch.rand(exact.shape, generator=self.generator).to(exact.device)
        sign = (drawn < self.share / 2).double() - (drawn > 1 - self.share / 2).double()
        # 0.75 eps of a value lies between 0.75 and 1.5 of its units, so it rounds to exactly one.
        return (exact.double() * (1 + 0.75 * torch.finfo(exact.dtype).eps * sign)).to(exact.dtype)


def by_norm(ops: MoTOps) -> MoTOps:
    """`ops` with add_rms_norm made of a sum and their rms_norm; and what an fp8 layer takes made of both."""

    def add_rms_norm(x: Tensor, other: Tensor, *rest: typing.Any) -> tuple[Tensor, Tensor]:
        total = x + other
        return total, ops.rms_norm(total, *rest)

    made = dataclasses.replace(ops, add_rms_norm=add_rms_norm)
    if getattr(ops, "quantise_rows", None) is None:
        return made
    from reference_impl.quantise import quantise_rows

    def quantised_rms_norm(
        x: Tensor, gain: Tensor, route: Route, eps: float, input_scale: Tensor | None
    ) -> QuantisedRows:
        return quantise_rows(ops.rms_norm(x, gain, route, eps), route, input_scale)

    def quantised_add_rms_norm(
        x: Tensor, other: Tensor, gain: Tensor, route: Route, eps: float, input_scale: Tensor | None
    ) -> tuple[Tensor, QuantisedRows]:
        total, normed = add_rms_norm(x, other, gain, route, eps)
        return total, quantise_rows(normed, route, input_scale)

    return dataclasses.replace(
        made, quantised_rms_norm=quantised_rms_norm, quantised_add_rms_norm=quantised_add_rms_norm
    )


def reordered(seed: int, share: float = MOVED) -> MoTOps:
    """The reference implementation with every op's result jittered; another one for every seed.

    The generator goes on from call to call, so a value is good for one run.
    """
    jitter = Jitter(torch.Generator().manual_seed(seed), share)

    def moved(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: jitter(op(*args))

    def qk_norm_rotary(*args: typing.Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = reference_impl.OPS.qk_norm_rotary(*args)
        return jitter(q), jitter(k), v  # v is a view of its input, which was jittered already

    ops = reference_impl.OPS
    jittered: dict[str, typing.Any] = {name: moved(getattr(ops, name)) for name in NAMES}
    return by_norm(
        dataclasses.replace(ops, name=f"reordered {seed}", qk_norm_rotary=storing(qk_norm_rotary), **jittered)
    )


def rounded_once(seed: int) -> MoTOps:
    """The reference with about half of its ops in the wider dtype, and their results rounded once; seed 0: all of them.

    A fused kernel rounds less often than the ops that it joins, so this is what fusing may do.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = [name for name in (*NAMES, "qk_norm_rotary") if seed == 0 or torch.rand((), generator=generator) < 0.5]

    def wide(op: Callable[..., typing.Any]) -> Callable[..., typing.Any]:
        def run(x: Rows, *args: typing.Any) -> typing.Any:
            dtype, x = truth_dtype(x.dtype), as_taken(x, *args)
            return upcast(op(upcast(x, dtype), *(upcast(arg, dtype) for arg in args)), x.dtype)

        return run

    def gated_mlp(x: Rows, gate_up: Experts, down: Experts, route: Route) -> Tensor:
        """Of fp8 experts not at once: rows are rounded and quantised between the two."""
        if kind_of(down) == "fp8":
            return typing.cast(Tensor, wide(ops.linear)(wide(ops.gated_linear)(x, gate_up, route), down, route))
        return typing.cast(Tensor, wide(ops.gated_mlp)(x, gate_up, down, route))

    ops = reference_impl.OPS
    widened = {name: wide(getattr(ops, name)) for name in chosen} | (
        {"gated_mlp": gated_mlp} if "gated_mlp" in chosen else {}
    )
    if "qk_norm_rotary" in widened:
        widened["qk_norm_rotary"] = storing(widened["qk_norm_rotary"])
    return by_norm(dataclasses.replace(ops, name=f"rounded once {seed}", **widened))
