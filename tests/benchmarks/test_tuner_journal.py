"""What a tuning run leaves behind: a journal that survives a kill, and a tile file that readers understand."""

import dataclasses
import json

import pytest
import torch

from benchmarks.harness.records import Environment, Provenance
from benchmarks.harness.tuner_journal import Choice, Entrant, Journal, Line, Result, Run, write_table
from benchmarks.harness.tuner_points import Point
from mot_impl.tiles import HOPPER_TILE, Tile, TileTable, TuneKey

H100 = "NVIDIA H100 80GB HBM3"
HERE = Environment("gpu", "Linux", "a CPU", 16, "3.12", "2.11.0", "3.6.0", "2.5", H100, "580.1", "13.0")
RUN = Run(H100, "bfloat16", "abc", Provenance("c0ffee", False, HERE, 1, 7, "2026-01-31T00:00:00", "motbench tune"))
QKV = Point("qkv", 1026, 2, 4608, 3584)
PLAIN, RULE = Tile(128, 128, 64, 8, 4), Tile(128, 256, 64, 8, 3)
SORTED = Choice("sorted", dataclasses.replace(HOPPER_TILE, pieces=2), [1e-5] * 3, HOPPER_TILE, [2e-5] * 3, 0.4, 0.5)
ANY = Choice("any", PLAIN, [3e-5] * 3, RULE, [3e-5] * 3, 0.4, 0.5)


def result(point=QKV, choices=(ANY, SORTED)) -> Result:
    return Result(point, "cuda:0", [Entrant(PLAIN, [3e-5])], list(choices), 1.0)


def content(folder):
    return json.loads((folder / "NVIDIA_H100_80GB_HBM3.json").read_text())


@pytest.fixture
def folder(tmp_path):
    write_table(tmp_path, RUN, [result()])
    return tmp_path


def test_sorted_rows_find_the_hopper_kernels_tile_and_others_the_plain_one(folder):
    file = TileTable.load(folder).files[0]  # the user's; the package's follow
    key = TuneKey("linear", "bfloat16", 4608, 3584)
    assert [file.choose(key, 1026, hopper).tile for hopper in (True, False)] == [SORTED.tile, PLAIN]


def test_an_entry_says_what_was_measured(folder):
    first = content(folder)["entries"][0]
    found = {name: first[name] for name in ("rows", "n_text", "seconds", "heuristic_seconds", "ratio")}
    assert found == pytest.approx(
        {"rows": "sorted", "n_text": 2, "seconds": 1e-5, "heuristic_seconds": 2e-5, "ratio": 0.5}
    )


def test_an_entry_says_which_run_made_it(folder):
    table = content(folder)
    made = table["made"][table["entries"][0]["made"]]
    assert made == {
        "date": "2026-01-31",
        "command": "motbench tune",
        "commit": "c0ffee",
        "dirty": False,
        "kernels": "abc",
        "device": H100,
        "driver": "580.1",
        "torch": "2.11.0",
        "triton": "3.6.0",
        "protocol": 1,
        "seed": 7,
    }


def test_a_second_dtype_stands_beside_the_first(folder):
    write_table(folder, dataclasses.replace(RUN, dtype="float16"), [result()])
    table = TileTable.load(folder)
    assert [table.knows("NVIDIA_H100_80GB_HBM3", dtype) for dtype in (torch.bfloat16, torch.float16)] == [True, True]


def test_a_point_that_is_tuned_again_is_replaced(folder):
    write_table(folder, RUN, [result(choices=[dataclasses.replace(ANY, tile=RULE)])])
    tiles = [(entry["rows"], Tile(**entry["tile"])) for entry in content(folder)["entries"]]
    assert tiles == [("sorted", SORTED.tile), ("any", RULE)]


def test_a_handwritten_file_is_kept_and_added_to(tmp_path):
    tile = dataclasses.asdict(RULE)
    entry = {"op": "linear", "dtype": "bfloat16", "m": 16, "n": 64, "k": 64, "tile": tile}
    written = {"schema": 1, "device": H100, "made": {"by": "hand"}, "entries": [entry]}
    (tmp_path / "NVIDIA_H100_80GB_HBM3.json").write_text(json.dumps(written))
    write_table(tmp_path, RUN, [result()])
    table = content(tmp_path)
    assert (len(table["entries"]), table["made"][0]) == (3, {"by": "hand"})


def test_a_file_that_is_none_is_refused_and_kept(tmp_path):
    path = tmp_path / "NVIDIA_H100_80GB_HBM3.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a tile file"):
        write_table(tmp_path, RUN, [result()])
    assert path.read_text() == "{"


def test_the_comparison_tells_ratios_and_their_mean(folder):
    told = (folder / "NVIDIA_H100_80GB_HBM3.md").read_text()
    assert "| sorted | hopper 128x256x64 w8 s4 p2 | 10.0 | hopper 128x256x64 w8 s4 | 20.0 | 0.500" in told
    assert "Rows sorted: geometric mean 0.500 of 1." in told


def test_a_rule_that_did_not_run_has_no_ratio(tmp_path):
    write_table(tmp_path, RUN, [result(choices=[dataclasses.replace(ANY, rule_seconds=[])])])
    assert "ratio" not in content(tmp_path)["entries"][0]


def test_a_line_that_a_kill_cut_short_is_measured_again(tmp_path):
    journal = Journal.at(tmp_path, RUN)
    for point in (QKV, dataclasses.replace(QKV, m=4098)):
        journal.append(Line(result=result(point)))
    journal.path.write_bytes(journal.path.read_bytes()[:-9])
    assert list(Journal.at(tmp_path, RUN).results()) == [QKV]


def test_a_point_without_a_choice_is_measured_again(tmp_path):
    journal = Journal.at(tmp_path, RUN)
    journal.append(Line(result=result(choices=[])))
    assert journal.results() == {}
