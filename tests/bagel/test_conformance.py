"""The acceptance test: every stored run of the original BAGEL, float32 on the CPU, within the oracle's limits."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import reference_impl
from benchmarks.harness.conformance import Limit, case_list, difference, replay
from benchmarks.harness.records import Conformance
from reference_impl.contract import Experts, MoTOps, Route

ORACLE = Path(__file__).parents[1] / "data" / "bagel_oracle"
CPU = torch.device("cpu")


def _replay(name: str, ops: MoTOps = reference_impl.OPS, dtype: torch.dtype = torch.float32) -> Conformance:
    (result,) = replay(ORACLE, [name], ops, CPU, dtype)
    return result


@functools.cache
def _reference(name: str) -> Conformance:
    return _replay(name)


@pytest.mark.parametrize("name", case_list(ORACLE))
def test_stored_run_is_reproduced(name: str) -> None:
    result = _reference(name)
    assert [d for d in result.differences if not d.ok] == []
    assert result.ok
    assert result.differences


@pytest.mark.parametrize("name", case_list(ORACLE))
def test_every_stored_field_is_compared_or_given(name: str) -> None:
    assert all(entry.endswith("(given)") for entry in _reference(name).not_compared)


def test_all_cases_are_found() -> None:
    names = case_list(ORACLE)
    assert len(names) == 20
    assert names[-2:] == ["transforms", "schedules"]


def test_swapped_experts_are_caught() -> None:
    def swapped(x: Tensor, experts: Experts, route: Route) -> Tensor:
        bias = None if experts.bias is None else experts.bias.flip(0)
        return reference_impl.linear(x, Experts(experts.weight.flip(0), bias), route)

    result = _replay("t2i_base", replace(reference_impl.OPS, linear=swapped))
    assert not result.ok
    assert "v_t" in {d.field for d in result.differences if not d.ok}


def test_a_small_error_in_one_norm_is_caught() -> None:
    def norm(x: Tensor, gain: Tensor, route: Route, eps: float) -> Tensor:
        return reference_impl.rms_norm(x, gain, route, 10 * eps)

    assert not _replay("t2i_base", replace(reference_impl.OPS, rms_norm=norm)).ok


def test_bfloat16_is_judged_by_final_latents_and_picture() -> None:
    result = _replay("t2i_base", dtype=torch.bfloat16)
    assert result.ok
    judged = [d.field for d in result.differences if d.limit_rms is not None]
    assert judged == ["final_latents", "output.png"]


def test_token_ids_in_bfloat16_are_skipped_and_not_passed() -> None:
    result = _replay("und_text", dtype=torch.bfloat16)
    assert result.skipped
    assert not result.ok


def test_unknown_case_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no case nope; it has edit_base"):
        next(replay(ORACLE, ["nope"], reference_impl.OPS, CPU, torch.float32))


def test_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no cases/\*/case.json"):
        next(replay(tmp_path, None, reference_impl.OPS, CPU, torch.float32))


def test_case_without_a_parameter_is_refused(tmp_path: Path) -> None:
    for part in ("checkpoint", "cases/inputs"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).symlink_to(ORACLE / part)
    shutil.copytree(ORACLE / "cases" / "und_text", tmp_path / "cases" / "und_text")
    path = tmp_path / "cases" / "und_text" / "case.json"
    facts = json.loads(path.read_text())
    del facts["params"]["max_length"]
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"case.json lacks params.max_length"):
        next(replay(tmp_path, ["und_text"], reference_impl.OPS, CPU, torch.float32))


@pytest.mark.parametrize("ours", [torch.tensor([1.0, float("nan")]), torch.zeros(3)], ids=["nan", "other shape"])
def test_what_cannot_be_compared_is_outside(ours: Tensor) -> None:
    assert not difference("x", ours, torch.tensor([1.0, 0.0]), Limit(1e9)).ok
