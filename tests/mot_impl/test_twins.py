"""The fused twin is the reference's twin: same files, same names, same parameters."""

import importlib
import inspect

import pytest

MODULES = {
    "linear": ["linear"],
    "norm": ["rms_norm", "head_rms_norm", "add_rms_norm", "quantised_rms_norm", "quantised_add_rms_norm"],
    "quantise": ["quantise_rows"],
    "rotary": ["rotary", "qk_norm_rotary"],
    "mlp": ["gated_linear", "gated_mlp"],
    "attention": ["attention"],
}
TWINS = [(module, name) for module, names in MODULES.items() for name in names]


@pytest.mark.parametrize(("module", "name"), TWINS, ids=[name for _, name in TWINS])
def test_an_op_has_the_parameters_of_its_twin(module, name):
    reference, fused = (
        inspect.signature(getattr(importlib.import_module(f"{package}.{module}"), name))
        for package in ("reference_impl", "mot_impl")
    )
    assert [name for name in fused.parameters if name not in ("tiles", "accumulation")] == list(reference.parameters)
