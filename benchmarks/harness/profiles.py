"""The suite as data: every benchmark with its axes, and which of its series a machine measures.

asv's lists come from here (harness/subject.py), so that the names, the verdict's expectations and what asv runs cannot
disagree. The lists are the same on every machine: results of a CPU and a GPU can be published together.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.harness.impls import FUSED, REFERENCE
from benchmarks.harness.records import Profile, Series

SMALL_SHAPES = ("small",)
BAGEL_SHAPES = ("1026", "4098", "8208")
"""Rows of one 512x512 image, one 1024x1024 image, and eight images, text included, at BAGEL-7B-MoT's widths."""

IMPLS = (REFERENCE, FUSED)
SHAPES = SMALL_SHAPES + BAGEL_SHAPES
CACHES = ("cold", "hot")
TASKS = ("t2i", "img2img")

GATHER_EAGER, GATHER, SORTED, DENSE = "gather-eager", "gather", "sorted", "dense"
"""Other ways to compute a step over the same weights (baselines.py): the first as the public code does, call by call,
the others through torch.compile, in a CUDA graph."""
FULL_SIZE_IMPLS = (FUSED, GATHER_EAGER, GATHER, SORTED, DENSE)
FULL_SIZE_TASKS = ("t2i-512", "t2i-1024", "edit-512")
FULL_SIZE_NEEDS = "BAGEL at full size needs a GPU with 40 GiB"

ROUNDS = 3
"""Processes per series and commit when nobody asks for more: as many as the nightly needs to call a change one."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: asv's name, the unit of its numbers, and its axes in asv's order. Every combination is a series.

    rounds    processes per series
    packages  what it needs of a commit beside reference_impl, and mot_impl where the axis `impl` says fused
    """

    name: str
    unit: str
    axes: dict[str, tuple[str, ...]]
    rounds: int = 1
    packages: tuple[str, ...] = ()

    def combinations(self) -> Iterator[dict[str, str]]:
        """The parameters of each series, in asv's order: the last axis moves fastest."""
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))


def _kernel(name: str, axes: dict[str, tuple[str, ...]]) -> Benchmark:
    return Benchmark(name, "seconds", axes | {"impl": IMPLS, "shape": SHAPES, "cache": CACHES}, ROUNDS)


QUANTISED = {"dtype": ("fp8", "int8"), "impl": (FUSED,), "shape": ("1026", "4098")}
"""Quantised experts are for speed and memory on a GPU; their reference is a specification, which has no speed."""

_FULL_STEPS = {"impl": FULL_SIZE_IMPLS, "shape": BAGEL_SHAPES}
_FULL_PICTURES = {"task": FULL_SIZE_TASKS, "impl": (FUSED, GATHER_EAGER)}
_FULL_SIZE = ("bagel", "mot_impl")

_ALL = (
    _kernel("linear.track_seconds", {"layer": ("qkv", "o", "gate_up", "down")}),
    Benchmark(
        "linear.track_quantised_seconds",
        "seconds",
        {"layer": ("qkv", "o", "gate_up", "down"), **QUANTISED, "cache": ("cold",)},
        ROUNDS,
    ),
    _kernel("norm.track_seconds", {"kind": ("rms", "head", "add_rms", "qk_rotary")}),
    _kernel("mlp.track_seconds", {}),
    Benchmark("mlp.track_quantised_seconds", "seconds", {**QUANTISED, "cache": ("cold",)}, ROUNDS),
    Benchmark("mlp.track_peak_memory", "bytes", {"impl": IMPLS, "shape": SHAPES}),
    Benchmark("layer.track_seconds", "seconds", {"impl": IMPLS, "shape": SHAPES}, ROUNDS, ("bagel",)),
    Benchmark("layer.track_quantised_seconds", "seconds", QUANTISED, ROUNDS, ("bagel",)),
    Benchmark("layer.track_quantised_peak_memory", "bytes", QUANTISED, packages=("bagel",)),
    Benchmark("layer.track_peak_memory", "bytes", {"impl": IMPLS, "shape": SHAPES}, packages=("bagel",)),
    Benchmark("generate.track_seconds", "seconds", {"task": TASKS, "impl": IMPLS}, ROUNDS, ("bagel",)),
    Benchmark("generate.track_peak_memory", "bytes", {"task": TASKS, "impl": IMPLS}, packages=("bagel",)),
    Benchmark("full_size.track_step_seconds", "seconds", _FULL_STEPS, ROUNDS, _FULL_SIZE),
    Benchmark("full_size.track_step_peak_memory", "bytes", _FULL_STEPS, packages=_FULL_SIZE),
    Benchmark("full_size.track_picture_seconds", "seconds", _FULL_PICTURES, ROUNDS, _FULL_SIZE),
    Benchmark("full_size.track_picture_peak_memory", "bytes", _FULL_PICTURES, packages=_FULL_SIZE),
    Benchmark("quality.track_largest_difference", "of 255", {"task": TASKS}, packages=("bagel", "mot_impl")),
    Benchmark("quality.track_ssim", "ssim", {"task": TASKS}, packages=("bagel", "mot_impl")),
)
SUITE = MappingProxyType({benchmark.name: benchmark for benchmark in _ALL})
"""Every benchmark by asv's name."""


def compared(profile: str) -> list[Series]:
    """The series of time that a comparison of two commits measures: not the baselines, which are the ruler's code."""
    timed = [one for one in declared(profile).expected if SUITE[one.benchmark].unit == "seconds"]
    return [one for one in timed if one.params.get("impl") not in FULL_SIZE_IMPLS[1:]]


def outside(profile: str, name: str, params: dict[str, str]) -> str:
    """Why a machine of this profile does not measure the series, in one sentence; empty if it does."""
    if profile == "cpu":
        if name.startswith("full_size."):
            return FULL_SIZE_NEEDS
        if params.get("impl") == FUSED:
            return "fused kernels run in Triton's interpreter on a CPU; their time and memory mean nothing"
        if params.get("shape") in BAGEL_SHAPES:
            return "BAGEL's own shapes are measured on a GPU"
        if params.get("cache") == "cold":
            return "a cold L2 cache is measured on a GPU"
    elif params.get("shape") in SMALL_SHAPES:
        return "small shapes are measured on a CPU"
    return ""


def declared(profile: str) -> Profile:
    """Every series of the suite, sorted into what this profile is expected to measure and what lies outside it."""
    series = [
        Series(benchmark.name, params, outside(profile, benchmark.name, params))
        for benchmark in _ALL
        for params in benchmark.combinations()
    ]
    return Profile([one for one in series if not one.reason], [one for one in series if one.reason])
