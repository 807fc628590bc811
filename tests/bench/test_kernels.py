"""The quick loop: the suite's kernel cases under pytest-benchmark, in this process, on the working tree.

Without one of pytest-benchmark's options each case runs once and nothing is timed; docs/measuring.md says how to time
and compare. No test asserts a time. On a CPU only the reference is here: a fused time means nothing in the interpreter.
"""

import pytest
import torch

from benchmarks import norm
from benchmarks.harness import kernels, profiles
from benchmarks.harness.subject import Subject

PROFILE = "gpu" if torch.cuda.is_available() else "cpu"
PLACE = (torch.device("cuda"), torch.bfloat16) if PROFILE == "gpu" else (torch.device("cpu"), torch.float32)


def subject_of(benchmark: str, params: dict[str, str]) -> Subject:
    match benchmark.partition(".")[0]:
        case "linear":
            return kernels.one_op("linear", params["layer"], params, PLACE)
        case "norm":
            return kernels.one_op(norm.OPS[params["kind"]], "", params, PLACE)
        case "mlp":
            return kernels.one_op("gated_mlp", "", params, PLACE)
    return kernels.layer(params, PLACE)


def parameter(series):
    name = "-".join([series.benchmark.partition(".")[0], *series.params.values()])
    large = series.params["shape"] in profiles.BAGEL_SHAPES[1:]
    return pytest.param(series.benchmark, series.params, id=name, marks=pytest.mark.slow if large else ())


SERIES = [
    parameter(series)
    for series in profiles.declared(PROFILE).expected
    if series.benchmark.partition(".")[0] in ("linear", "norm", "mlp", "layer")
    and series.benchmark.endswith("seconds")
    and series.params.get("cache") != "cold"  # one call after the other on the same inputs is what this loop can do
]
OPTIONS = ("enable", "only", "autosave", "save", "compare", "json")


@pytest.fixture(autouse=True)
def without_gradients(one_thread):
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("name", "params"), SERIES)
def test_kernel(request, name, params):
    subject = subject_of(name, params)
    subject.prove()

    def call():
        subject.calls[0]()
        if subject.device != "cpu":
            torch.cuda.synchronize()

    if any(request.config.getoption(f"benchmark_{option}", None) for option in OPTIONS):
        request.getfixturevalue("benchmark")(call)
    else:
        call()
