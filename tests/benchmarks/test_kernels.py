"""The subjects themselves: what proves them, and that a GPU can measure each of them."""

import dataclasses
import functools
import sys

import pytest
import torch

import mot_impl
import reference_impl
from benchmarks.harness import clock, jobs, kernels
from benchmarks.harness.clock import Rule

# Triton 3.6's interpreter and numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

CPU = (torch.device("cpu"), torch.float32)
GPU = (torch.device("cuda"), torch.bfloat16)
SMALL = {"impl": "fused", "shape": "small"}
WORKING_LINE = "motbench parity tests/data/bagel_oracle --impl fused --device cpu --dtype float32"
ONE_OP = [
    pytest.param("linear", "qkv", id="qkv"),
    pytest.param("linear", "down", id="down"),
    pytest.param("rms_norm", "", id="rms"),
    pytest.param("qk_norm_rotary", "", id="qk_rotary"),
    pytest.param("gated_mlp", "", id="mlp"),
]


def wrong(name):
    """Fused ops of which one has a factor in one row: the smallest bug that a gate must see."""
    op = getattr(mot_impl.OPS, name)

    def slightly(*args):
        y = op(*args).clone()
        y[1] *= 1.01
        return y

    return dataclasses.replace(mot_impl.OPS, **{name: slightly})


@pytest.fixture
def cpu_jobs(monkeypatch):
    monkeypatch.setattr(jobs, "place", lambda: CPU)
    jobs._pipeline.cache_clear()
    yield
    jobs._pipeline.cache_clear()


@pytest.mark.parametrize(("op", "part"), ONE_OP)
def test_fused_op_is_proved_on_the_inputs_that_are_timed(op, part):
    subject = kernels.one_op(op, part, SMALL, CPU)
    subject.prove()
    torch.testing.assert_close(subject.calls[0](), subject.calls[0]())


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
@pytest.mark.parametrize(("op", "part"), [ONE_OP[0], ONE_OP[-1]])
def test_quantised_op_is_proved_on_the_inputs_that_are_timed(op, part, dtype):
    subject = kernels.one_op(op, part, SMALL | {"dtype": dtype}, CPU)
    subject.prove()
    torch.testing.assert_close(subject.calls[0](), subject.calls[0]())


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_quantised_layer_is_proved(dtype):
    kernels.layer(SMALL | {"dtype": dtype}, CPU).prove()


@pytest.mark.parametrize("build", [functools.partial(kernels.one_op, "linear", "o"), kernels.layer])
def test_a_commit_without_quantised_experts_is_not_measured(monkeypatch, build):
    monkeypatch.setitem(sys.modules, "reference_impl.quantise", None)
    with pytest.raises(ImportError, match=r"reference_impl\.quantise"):
        build(SMALL | {"dtype": "fp8"}, CPU)


def test_wrong_op_is_not_measured(monkeypatch):
    monkeypatch.setattr(kernels, "load_impl", lambda spec: wrong("linear"))
    with pytest.raises(RuntimeError, match="fused linear disagrees with the reference"):
        kernels.one_op("linear", "qkv", SMALL, CPU).prove()


def test_fused_layer_is_proved():
    kernels.layer(SMALL, CPU).prove()


@pytest.mark.parametrize("name", ["linear", "rms_norm", "gated_mlp", "attention"])
def test_layer_with_one_wrong_op_is_not_measured(monkeypatch, name):
    monkeypatch.setattr(kernels, "load_impl", lambda spec: wrong(name))
    with pytest.raises(RuntimeError, match="the decoder layer disagrees"):
        kernels.layer(SMALL, CPU).prove()


def test_tile_and_its_origin_are_recorded():
    assert "interpreter" in kernels.one_op("linear", "qkv", SMALL, CPU).tile


@pytest.mark.parametrize("task", ["t2i", "img2img"])
def test_fused_picture_is_proved(cpu_jobs, task):
    jobs.prove(task, "fused")


def test_picture_with_one_wrong_op_is_not_measured(cpu_jobs, monkeypatch):
    monkeypatch.setattr(jobs, "load_impl", lambda spec: wrong("linear") if spec == "fused" else reference_impl.OPS)
    with pytest.raises(ValueError, match=f"the first velocity of fused is off by .*; run {WORKING_LINE}$"):
        jobs.prove("t2i", "fused")


def test_job_makes_the_same_picture_each_time(cpu_jobs):
    first, second = (jobs.generator("t2i", "reference", steps=3)() for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("cache", ["cold", "hot"])
@pytest.mark.parametrize(("op", "part"), ONE_OP)
def test_gpu_measures_every_op(op, part, impl, cache):
    subject = kernels.one_op(op, part, {"impl": impl, "shape": "1026", "cache": cache}, GPU)
    subject.prove()
    assert min(clock.measure_gpu(subject.calls, cache, Rule(0.1, 3, 5, 0.1))) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
def test_gpu_measures_the_layer(impl):
    subject = kernels.layer({"impl": impl, "shape": "1026"}, GPU)
    subject.prove()
    assert min(clock.measure_gpu(subject.calls, "hot", Rule(0.1, 3, 5, 0.1))) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("task", ["t2i", "img2img"])
def test_gpu_measures_a_picture(monkeypatch, task, impl):
    monkeypatch.setattr(jobs, "place", lambda: GPU)
    jobs.prove(task, impl)
    assert min(clock.measure_end_to_end(jobs.generator(task, impl), "cuda", Rule(0.5, 3, 3, 1.0))) > 0


@pytest.mark.gpu
def test_gpu_cold_copies_do_not_fit_the_cache():
    subject = kernels.one_op("rms_norm", "", {"impl": "reference", "shape": "1026", "cache": "cold"}, GPU)
    first, second = (call.args[0] for call in subject.calls[:2])
    assert first.data_ptr() != second.data_ptr()
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    assert sum(call.args[0].nbytes for call in subject.calls) >= 3 * l2


@pytest.mark.gpu
def test_gpu_peak_memory_counts_the_result():
    x = torch.zeros(1 << 20, device="cuda")
    before = torch.cuda.memory_allocated()
    assert clock.peak_memory(lambda: x + 1, "cuda") >= before + x.nbytes
