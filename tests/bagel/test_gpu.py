"""The same stored runs on a GPU, with both implementations: IEEE float32 to the same limits, and bfloat16."""

from pathlib import Path

import pytest

from benchmarks.harness.conformance import replay
from motbench.implementation import resolve

ORACLE = Path(__file__).parents[1] / "data" / "bagel_oracle"


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("case", ["t2i_base", "edit_base", "edit_default_transforms", "und_image", "t2i_think"])
def test_float32_reproduces_the_stored_run(impl: str, case: str) -> None:
    (result,) = replay(ORACLE, [case], *resolve(impl, "cuda", "float32"))
    assert [d for d in result.differences if not d.ok] == []
    assert result.ok


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["reference", "fused"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["t2i_base", "t2i_rect", "edit_base", "edit_default_transforms"])
def test_half_precision_stays_near_the_stored_run(impl: str, dtype: str, case: str) -> None:
    (result,) = replay(ORACLE, [case], *resolve(impl, "cuda", dtype))
    assert [d for d in result.differences if not d.ok] == []
    assert result.ok
