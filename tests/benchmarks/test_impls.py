import pytest

import reference_impl
from benchmarks.harness.impls import load_impl


def test_reference_is_the_specification():
    assert load_impl("reference") is reference_impl.OPS


def test_third_party_is_found_by_module_and_name():
    assert load_impl("reference_impl:OPS") is reference_impl.OPS


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("fast", "'fast' is not reference, fused or package.module:OPS", id="no-such-name"),
        pytest.param("no_such_package:OPS", "does not import: No module named 'no_such_package'", id="no-module"),
        pytest.param("reference_impl:NOTHING", "is nothing but must be a reference_impl.contract.MoTOps", id="no-ops"),
        pytest.param("reference_impl:linear", "is function but must be", id="not-a-bundle"),
    ],
)
def test_unknown_implementation_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        load_impl(spec)


@pytest.mark.parametrize(
    ("text", "found"),
    [("OPS = (", "SyntaxError: "), ("raise RuntimeError('no licence')", "RuntimeError: no licence; mend it")],
    ids=["syntax", "runtime"],
)
def test_a_module_that_raises_is_refused_by_the_errors_type(tmp_path, monkeypatch, text, found):
    name = f"theirs_{found[:6].lower()}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"'{name}:OPS' does not import: {found}"):
        load_impl(f"{name}:OPS")


def test_tiles_are_refused_where_nothing_reads_them(tmp_path):
    with pytest.raises(ValueError, match="only 'fused' reads them"):
        load_impl("reference", tmp_path)
