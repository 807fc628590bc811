from pathlib import Path

import pytest
import torch

from training import files
from training.files import load_state, save_state, save_tensors


def test_a_state_comes_back_from_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 1000)
    tensors = {f"t{i}": torch.full((100,), float(i)) for i in range(7)}
    save_state(tmp_path, tensors, {"step": 3, "seed": 0})
    assert len(list(tmp_path.iterdir())) == 4
    found = load_state(tmp_path)
    assert found is not None
    assert found[1] == {"step": 3, "seed": 0}
    assert all(torch.equal(found[0][name], tensor) for name, tensor in tensors.items())


def test_a_newer_state_replaces_the_older(tmp_path: Path) -> None:
    for step in (1, 2):
        save_state(tmp_path, {"t": torch.zeros(1)}, {"step": step})
    assert [path.name for path in tmp_path.iterdir()] == ["state-0000002-0-of-1.safetensors"]


def test_a_state_with_a_part_missing_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, {"t": torch.zeros(1)}, {"step": 1})
    monkeypatch.setattr(files, "PART_BYTES", 1)
    save_tensors(tmp_path / "state-0000002-0-of-2.safetensors", {"t": torch.zeros(1)}, {"progress": '{"step": 2}'})
    found = load_state(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state-0000001-0-of-1.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"state-0000001-0-of-1.safetensors is not a training state"):
        load_state(tmp_path)


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad hold NaN"):
        save_tensors(tmp_path / "x.safetensors", {"bad": torch.tensor([float("nan")])})
    assert list(tmp_path.iterdir()) == []
