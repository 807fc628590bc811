"""A synthetic checkpoint is one that the pipeline loads, whole or in shards, and every byte comes from the seed."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import reference_impl
from bagel.config import BagelConfig
from bagel.pipeline import BagelPipeline, ImageRequest
from bagel.weights import find_files
from benchmarks.harness.environment import repository_root
from benchmarks.harness.synthetic import TWIN
from benchmarks.harness.synthetic_checkpoint import write_checkpoint

TOKENIZER = repository_root() / "tests/data/bagel_oracle/checkpoint"
SHARD = 1 << 20


def write(folder: Path, seed: int = 0, threads: int | None = None) -> list[tuple[int, int]]:
    return list(write_checkpoint(folder, TWIN, TOKENIZER, seed, SHARD, threads))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoint")
    write(made)
    return made


def test_its_config_reads_as_it_was_written(folder: Path) -> None:
    assert BagelConfig.read(folder) == TWIN


def test_it_is_in_shards_with_an_index(folder: Path) -> None:
    assert len(find_files(folder, ("ema",))) > 3
    assert (folder / "ema.safetensors.index.json").is_file()


def test_a_picture_can_be_made_of_it(folder: Path) -> None:
    pipeline = BagelPipeline.from_checkpoint(folder, reference_impl.OPS)
    assert pipeline.generate(ImageRequest("a cat", height=16, width=32, steps=2)).image.size == (32, 16)


def test_the_seed_decides_every_byte(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "same")
    write(tmp_path / "other", seed=1)
    shard = find_files(folder, ("ema",))[0].name
    assert (tmp_path / "same" / shard).read_bytes() == (folder / shard).read_bytes()
    assert (tmp_path / "other" / shard).read_bytes() != (folder / shard).read_bytes()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_no_byte_depends_on_the_threads(folder: Path, tmp_path: Path, threads: int) -> None:
    write(tmp_path / "again", threads=threads)
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in (tmp_path / "again").iterdir()} == names
    assert [name for name in names if (tmp_path / "again" / name).read_bytes() != (folder / name).read_bytes()] == []


def test_no_two_tensors_of_a_shape_are_the_same(folder: Path) -> None:
    tensors = [one for path in find_files(folder, ("ema",)) for one in load_file(path).values() if one.numel() > 16]
    assert len({one.view(torch.uint8).numpy().tobytes() for one in tensors}) == len(tensors)


def test_weights_are_bfloat16_and_the_autoencoders_float32(folder: Path) -> None:
    for stem, dtype in (("ema", "BF16"), ("ae", "F32")):
        with safe_open(find_files(folder, (stem,))[0], framework="pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {dtype}  # noqa: SIM118


def test_writing_is_told_to_the_last_byte(tmp_path: Path) -> None:
    told = write(tmp_path / "new")
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_a_folder_that_holds_something_is_left_alone(folder: Path) -> None:
    with pytest.raises(FileExistsError, match="give a new or an empty folder"):
        write(folder)


@pytest.mark.gpu
def test_loading_holds_nothing_twice_on_a_gpu(folder: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    pipeline = BagelPipeline.from_checkpoint(folder, reference_impl.OPS, "cuda", torch.bfloat16)
    grown, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    assert pipeline.model.device.type == "cuda"
    assert peak <= 1.02 * grown
