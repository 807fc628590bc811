"""Which tile, and from where: the user's folder, the tuned files, the heuristic."""

import dataclasses
import json

import pytest
import torch

import mot_impl
from mot_impl import heuristic, tiles
from mot_impl.tiles import (
    Tile,
    TileTable,
    TuneFile,
    TuneKey,
    file_name,
    heuristic_tile,
    interpreter_tile,
    likeness,
)
from reference_impl.contract import Problem

CPU = torch.device("cpu")
TILE = {"block_m": 32, "block_n": 32, "block_k": 32, "warps": 4, "stages": 2}


def problem(m: int = 100, n: int = 64, k: int = 64, op: str = "linear", dtype: torch.dtype = torch.float32) -> Problem:
    return Problem(op, m, n, k, dtype, CPU)


def write(folder, entries, name="cpu.json", device="cpu", schema=1):
    path = folder / name
    path.write_text(json.dumps({"schema": schema, "device": device, "made": {}, "entries": entries}))
    return path


def entry(m: int, **changes):
    return {"op": "linear", "dtype": "float32", "m": m, "n": 64, "k": 64, "tile": TILE} | changes


def tuned(*entries) -> TuneFile:
    return TuneFile("tuned", "cpu.json", "cpu", entries)


KEY = TuneKey("linear", "float32", 64, 64)
SMALL, LARGE = Tile(16, 16, 16, 4, 1), Tile(64, 64, 64, 4, 1)


def test_a_tile_prints_as_one_line():
    assert str(Tile(128, 256, 64, 8, 3)) == "128x256x64 w8 s3"


def test_the_users_folder_comes_first(tmp_path):
    write(tmp_path, [entry(128)])
    assert str(TileTable.load(tmp_path).choose(problem())) == "32x32x32 w4 s2 (user: cpu.json, M=128)"


def test_the_tuned_file_comes_before_the_heuristic():
    table = TileTable((tuned((KEY, 128, LARGE)),))
    assert str(table.choose(problem())) == "64x64x64 w4 s1 (tuned: cpu.json, M=128)"


def test_the_tuned_files_stand_behind_the_users(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    write(package, [entry(64, n=128)])
    monkeypatch.setattr(tiles, "TUNED", package)
    user = tmp_path / "user"
    user.mkdir()
    write(user, [entry(64)])
    origins = [TileTable.load(user).choose(problem(n=n)).origin for n in (64, 128)]
    assert origins == ["user: cpu.json, M=64", "tuned: cpu.json, M=64"]


@pytest.mark.parametrize(("m", "nearest"), [(1, 16), (60, 16), (70, 256), (9999, 256)])
def test_the_nearest_m_is_nearest_by_ratio(m, nearest):
    table = TileTable((tuned((KEY, 16, SMALL), (KEY, 256, LARGE)),))
    assert table.choose(problem(m)).origin == f"tuned: cpu.json, M={nearest}"


@pytest.mark.parametrize(
    "other", [problem(n=65), problem(k=65), problem(op="gated_linear"), problem(dtype=torch.float16)], ids=str
)
def test_an_entry_of_another_problem_is_not_taken(other):
    assert "tuned" not in TileTable((tuned((KEY, 16, SMALL)),)).choose(other).origin


def test_a_file_of_another_device_is_not_taken():
    file = TuneFile("tuned", "NVIDIA_H100.json", "NVIDIA_H100", ((KEY, 16, SMALL),))
    assert "tuned" not in TileTable((file,)).choose(problem()).origin


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "NVIDIA_H100_80GB_HBM3"),
        ("NVIDIA A800-SXM4-80GB", "NVIDIA_A800_SXM4_80GB"),
    ],
)
def test_a_device_goes_by_its_name_without_signs(device, name):
    assert file_name(device) == name


H100 = "NVIDIA_H100_80GB_HBM3"


@pytest.mark.parametrize(
    ("device", "file"),
    [
        (H100, H100),
        ("NVIDIA_H100_PCIe", H100),
        ("NVIDIA_H100_NVL", H100),
        ("NVIDIA_H800", H100),
        ("NVIDIA_A800_SXM4_80GB", "NVIDIA_A100_SXM4_40GB"),
        ("NVIDIA_GeForce_RTX_4090", "NVIDIA_GeForce_RTX_4090"),
    ],
)
def test_a_card_reads_files_of_its_chip(device, file):
    assert likeness(file, device) > 0


@pytest.mark.parametrize(
    ("device", "file"),
    [
        ("NVIDIA_H200", H100),
        ("NVIDIA_A100_SXM4_80GB", H100),
        ("NVIDIA_RTX_A8000", "NVIDIA_A800_SXM4_80GB"),
        ("NVIDIA_H100_80GB_HBM3_MIG_1g_10gb", H100),
        ("NVIDIA_GeForce_RTX_4090", "NVIDIA_GeForce_RTX_4080"),
        ("cpu", H100),
    ],
)
def test_a_card_reads_no_file_of_another_chip_or_of_a_slice(device, file):
    assert likeness(file, device) == 0


def of_devices(*names: str, tier: str = "tuned") -> tuple[TuneFile, ...]:
    return tuple(TuneFile(tier, f"{name}.json", name, ()) for name in names)


def test_a_card_reads_its_own_file_before_its_chips():
    table = TileTable(of_devices("NVIDIA_H100_NVL", H100, "NVIDIA_H100_PCIe"))
    found = [file.device for file in table.of_device("NVIDIA_H800_PCIe")]
    assert (found[0], len(found)) == ("NVIDIA_H100_PCIe", 3)


def test_the_users_file_of_the_chip_comes_before_the_packages_of_the_card():
    table = TileTable((*of_devices("NVIDIA_H100_NVL", tier="user"), *of_devices(H100)))
    assert [file.tier for file in table.of_device(H100)] == ["user", "tuned"]


@pytest.mark.parametrize(("dtype", "known"), [(torch.float32, True), (torch.float16, False)], ids=str)
def test_a_table_knows_a_device_in_the_dtypes_of_its_entries(dtype, known):
    assert TileTable((tuned((KEY, 16, SMALL)),)).knows("cpu", dtype) == known


def test_a_choice_is_remembered():
    table = TileTable()
    assert table.choose(problem()) is table.choose(problem())


@pytest.mark.skipif(not mot_impl.device.INTERPRETED, reason="the interpreter's own tier")
def test_the_interpreter_takes_its_own_tier():
    assert mot_impl.OPS.describe_tile(problem()) == "128x64x64 w4 s1 (interpreter)"


def test_a_problem_within_the_largest_tile_is_one_step_in_the_interpreter():
    tile = interpreter_tile(problem(150, 300, 200))
    assert (tile.block_m, tile.block_n, tile.block_k) == (256, 512, 256)


def test_gated_mlp_names_both_its_tiles(tmp_path):
    write(tmp_path, [entry(128, op="gated_linear", n=96), entry(128, n=64, k=96)])
    ops = mot_impl.fused_ops(TileTable.load(tmp_path))
    found = ops.describe_tile(problem(op="gated_mlp", n=96, k=64))
    assert found.count("user: cpu.json") == 2


@pytest.mark.parametrize("op", ["linear", "gated_linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("limit", [232_448, 166_912, 101_376], ids=["sm_90", "sm_80", "sm_89"])
@pytest.mark.parametrize("m", [1, 64, 512, 4098])
def test_the_heuristic_fits_the_shared_memory(op, dtype, limit, m):
    halves = 2 if op == "gated_linear" else 1
    tile = heuristic_tile(problem(m, op=op, dtype=dtype), limit)
    assert tile.shared_memory(dtype.itemsize, halves) <= limit


def test_the_heuristic_takes_smaller_tiles_for_fewer_rows():
    sizes = [heuristic_tile(problem(m, dtype=torch.bfloat16)).block_m for m in (1, 64, 512, 4098)]
    assert sizes == [16, 64, 128, 128]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_m": 48}, "block_m=48; it must be a power of two, at least 16"),
        ({"block_k": 8}, "block_k=8; it must be a power of two, at least 16"),
        ({"warps": 3}, "warps=3"),
        ({"stages": 0}, "stages=0"),
        ({"group_m": 0}, "group_m=0"),
        ({"bloc_m": 32}, "bloc_m"),
        ({"kind": "hopper"}, "tile is hopper 32x32x32 w4 s2 but kind 'hopper' has only 128x256x64 w8"),
        ({"pieces": 9}, "pieces=9; it must be 0, or up to 4 for kind 'hopper' and 8 for 'gather'"),
    ],
    ids=str,
)
def test_a_file_with_an_impossible_tile_is_refused(tmp_path, change, message):
    path = write(tmp_path, [entry(16, tile=TILE | change)])
    with pytest.raises(ValueError, match=rf"{path} is not a tile file .*{message}"):
        TileTable.load(tmp_path)


def test_a_file_with_an_entry_of_no_rows_is_refused(tmp_path):
    write(tmp_path, [entry(0)])
    with pytest.raises(ValueError, match=r"an entry has m=0; it must be a positive whole number"):
        TileTable.load(tmp_path)


def test_a_file_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "cpu.json").write_text("{")
    with pytest.raises(ValueError, match=r"cpu.json is not a tile file \(JSONDecodeError"):
        TileTable.load(tmp_path)


def test_a_file_of_another_schema_is_refused(tmp_path):
    write(tmp_path, [], schema=2)
    with pytest.raises(ValueError, match=r"schema 2 is not 1"):
        TileTable.load(tmp_path)


def test_a_file_named_after_another_device_is_refused(tmp_path):
    write(tmp_path, [], name="mine.json", device="NVIDIA H100 80GB HBM3")
    with pytest.raises(ValueError, match=r"must be called NVIDIA_H100_80GB_HBM3.json"):
        TileTable.load(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no tile file"):
        TileTable.load(tmp_path)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(NotADirectoryError, match=r"nowhere is not a folder"):
        TileTable.load(tmp_path / "nowhere")


SORTED = Problem("linear", 1026, 4608, 3584, torch.bfloat16, torch.device("cuda"), image_first=True)


@pytest.fixture
def hopper(monkeypatch):
    """A machine that looks like an H100 with the right Triton, as far as the choice of a kernel goes."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(heuristic.triton, "__version__", "3.6.0")


@pytest.mark.usefixtures("hopper")
def test_the_hopper_kernel_takes_sorted_rows():
    assert tiles.hopper_can(SORTED)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    "change",
    [
        {"image_first": False},
        {"dtype": torch.float32},
        {"k": 3588},
        {"n": 4604},
        {"device": CPU},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_hopper_kernel_takes_nothing_else(change):
    assert not tiles.hopper_can(dataclasses.replace(SORTED, **change))


@pytest.mark.parametrize(("capability", "version"), [((8, 0), "3.6.0"), ((10, 0), "3.6.0"), ((9, 0), "3.7.1")])
def test_the_hopper_kernel_needs_its_chip_and_its_triton(capability, version, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(heuristic.triton, "__version__", version)
    assert not tiles.hopper_can(SORTED)


def test_an_entry_of_the_hopper_kernel_counts_only_where_it_can_run():
    file = tuned((KEY, 16, tiles.HOPPER_TILE), (KEY, 256, SMALL))
    assert [file.choose(KEY, 16, hopper).tile for hopper in (True, False)] == [tiles.HOPPER_TILE, SMALL]


def test_a_tile_of_another_kernel_says_so():
    assert str(tiles.HOPPER_TILE) == "hopper 128x256x64 w8 s4"


def test_a_tile_says_what_is_unusual_about_it():
    assert str(dataclasses.replace(tiles.HOPPER_TILE, group_m=4, pieces=2)) == "hopper 128x256x64 w8 s4 g4 p2"


def test_of_two_entries_at_one_m_the_first_that_can_run_is_taken():
    file = tuned((KEY, 64, tiles.HOPPER_TILE), (KEY, 64, LARGE))
    assert [file.choose(KEY, 64, hopper).tile for hopper in (True, False)] == [tiles.HOPPER_TILE, LARGE]
