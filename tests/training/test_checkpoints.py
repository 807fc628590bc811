"""A quantised folder beside its original: scores are compared if the one was made from the other's very files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bagel.quantise import quantise_checkpoint
from training.__main__ import main
from training.checkpoints import described

ORACLE = Path(__file__).parents[1] / "data/bagel_oracle/checkpoint"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    for path in ORACLE.iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture(scope="module")
def quantised(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised") / "fp8"
    quantise_checkpoint(original, folder, "fp8")
    return folder


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Exit code and output of comparing made-up scores of two folders."""

    def run(*folders: Path) -> tuple[int, str]:
        options = {"dtype": "bfloat16", "quantise": None, "ops": "reference_impl:OPS", "device": "cpu"}
        share = {"right": 1, "total": 2, "value": 0.5, "interval": [0.1, 0.9]}
        scored = {"options": options, "scores": {"edit": {"all right": share}}, "right": {"edit": [1, 0]}}
        files = [tmp_path / f"{place}.json" for place in range(len(folders))]
        for file, folder in zip(files, folders, strict=True):
            file.write_text(json.dumps(described(folder) | scored))
        code = main(["compare", *map(str, files), "--out", str(tmp_path / "paired.json")])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def changed(folder: Path, target: Path, name: str) -> Path:
    """A copy of the folder with another file of this name."""
    shutil.copytree(folder, target)
    with (target / name).open("ab") as file:
        file.write(b" ")
    return target


def test_a_quantised_folder_stands_beside_its_original(compare: Any, original: Path, quantised: Path) -> None:
    code, said = compare(original, quantised)
    assert code == 0, said
    assert "| bfloat16 fp8 checkpoint, reference_impl on cpu, edit | 2 | 0 | 0 |" in said


def test_two_kinds_of_one_original_stand_beside_each_other(
    compare: Any, original: Path, quantised: Path, tmp_path: Path
) -> None:
    quantise_checkpoint(original, tmp_path / "int8", "int8")
    assert compare(quantised, tmp_path / "int8")[0] == 0


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors", "config.json"])
def test_an_original_with_another_file_is_refused(
    compare: Any, original: Path, quantised: Path, tmp_path: Path, name: str
) -> None:
    code, said = compare(changed(original, tmp_path / "changed", name), quantised)
    assert code == 2
    assert "of different checkpoints" in said


def test_another_index_alone_does_not_excuse_two_dense_folders(compare: Any, original: Path, tmp_path: Path) -> None:
    other = tmp_path / "indexed"
    shutil.copytree(original, other)
    (other / "ema.safetensors.index.json").write_text("{}")
    assert compare(original, other)[0] == 2


def test_a_manifest_without_sources_is_refused(quantised: Path, tmp_path: Path) -> None:
    other = tmp_path / "broken"
    shutil.copytree(quantised, other)
    (other / "quantisation.json").write_text('{"kind": "fp8"}')
    with pytest.raises(ValueError, match="lacks kind or sources; make it with: motbench quantise"):
        described(other)
