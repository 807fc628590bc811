"""Kernels that are the same at both commits: looked at in real processes, listed, not timed; no pass of an image."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.harness import environment
from benchmarks.harness.launches import digest, launches
from benchmarks.harness.records import Look, Series, append_line, read_lines
from benchmarks.harness.rounds import Walk
from motbench import compare as command
from reports import joint, told
from reports.decide import Rounds

ROOT = environment.repository_root()
RMS = Series("norm.track_seconds", {"kind": "rms", "impl": "reference", "shape": "small", "cache": "hot"})
TODAY = date(2026, 11, 24)
Made = Callable[..., Rounds]

KERNEL = """
import importlib.util, os, pathlib

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported: this kernel is compiled, not interpreted
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

{comment}
@triton.jit
def double(x_ptr, y_ptr, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs) * {factor})


def _of(plain):
    def op(*arguments):
        signature = {{"x_ptr": "*fp32", "y_ptr": "*fp32", "BLOCK": "constexpr"}}
        triton.compile(ASTSource(double, signature, {{"BLOCK": 128}}), target=GPUTarget("cuda", 90, 32))
        result = plain(*arguments)
        return {result}

    return op


import dataclasses

OPS = dataclasses.replace(OPS, rms_norm=_of(OPS.rms_norm))
"""


def commit(folder: Path, kernel: dict[str, str] | None) -> str:
    """A reference whose norm also compiles a kernel for a GPU that need not be there, or one as it is."""
    plain = (ROOT / "reference_impl" / "__init__.py").read_text()
    (folder / "reference_impl" / "__init__.py").write_text(plain + (KERNEL.format(**kernel) if kernel else ""))
    name = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    environment.git(folder, "add", "--all")
    environment.git(folder, *name, "commit", "--quiet", "--message=a kernel")
    return environment.git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("unchanged")
    environment.git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / ".gitignore").write_text(".asv\n__pycache__\n")
    for path in (ROOT / "reference_impl").glob("*.py"):
        (folder / "reference_impl").mkdir(exist_ok=True)
        (folder / "reference_impl" / path.name).write_text(path.read_text())
    one = {"comment": "", "factor": "2.0", "result": "result"}
    plain = commit(folder, None)
    return folder, {
        "no kernel": plain,
        "base": commit(folder, one),
        "moved": commit(folder, one | {"comment": "# a comment\n" * 5}),
        "other kernel": commit(folder, one | {"factor": "3.0"}),
        "one more launch": commit(folder, one | {"result": "result.clone()"}),
    }


def asked(repository: tuple[Path, dict[str, str]], head: str) -> joint.Asked:
    commits = repository[1]
    return joint.Asked(commits["base"], commits[head], environment.here(), 2, [RMS], [0.02], "", "motbench compare")


@pytest.fixture(scope="module")
def looked(
    repository: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Series]]:
    def look(head: str) -> list[Series]:
        records, request = tmp_path_factory.mktemp("looks"), asked(repository, head)
        Walk(repository[0], records, request.base, request.head, request.environment).look(RMS)
        looks = read_lines(records / joint.LOOKS, Look)[0]
        assert [one.side for one in looks] == ["base", "head"]
        return joint.unchanged(request, looks)

    return look


cpu_only = pytest.mark.skipif(environment.here().profile == "gpu", reason="its commits have no series of a GPU")


@cpu_only
def test_a_kernel_that_only_moved_is_unchanged(looked: Callable[[str], list[Series]]) -> None:
    assert [one.reason[:27] for one in looked("moved")] == ["unchanged kernel, not timed"]


@cpu_only
@pytest.mark.parametrize("head", ["other kernel", "one more launch"])
def test_other_code_or_another_launch_is_a_change(looked: Callable[[str], list[Series]], head: str) -> None:
    assert looked(head) == []


@cpu_only
def test_a_comparison_that_skips_times_nothing_unchanged(
    repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    request = asked(repository, "moved")
    command.measure(repository[0], tmp_path, request, command.Request(rounds=4, skip_unchanged=True))
    assert not (tmp_path / "timing.jsonl").exists()
    assert joint.judge(tmp_path, [], TODAY, with_image=False).status == "pass"


@cpu_only
def test_a_reference_that_compiles_nothing_is_never_unchanged(
    repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    request = asked(repository, "no kernel")
    request = replace(request, base=request.head)
    Walk(repository[0], tmp_path, request.base, request.head, request.environment).look(RMS)
    looks = read_lines(tmp_path / joint.LOOKS, Look)[0]
    assert ([one.kernels for one in looks], joint.unchanged(request, looks)) == (["", ""], [])


@pytest.fixture
def same(comparison: Any, rounds: Made, qkv: Series, rms: Series) -> Any:
    """Of two series one is timed and the other is the same at both commits."""
    comparison.asked(qkv, rms)
    comparison.measured(rounds())
    look(comparison, rms)
    return comparison


def look(comparison: Any, series: Series, **head: str) -> None:
    request = joint.read_json(comparison.folder / joint.ASKED, joint.Asked)
    fingerprint = request.environment.fingerprint
    base = Look(series.benchmark, series.params, request.base, fingerprint, "base", "abc", "def")
    other = replace(base, **{"commit": request.head, "side": "head"} | head)
    for one in (base, other):
        append_line(comparison.folder / joint.LOOKS, one)


def test_an_unchanged_series_is_listed_and_not_counted(same: Any, rms: Series) -> None:
    verdict = same.judge()
    assert (verdict.status, [one.label for one in verdict.unchanged]) == ("pass", [rms.label])
    assert verdict.sentence == "None of 1 series is slower; 1 unchanged and not timed."


@pytest.mark.parametrize(
    "head",
    [
        pytest.param({"kernels": "other"}, id="other-kernel"),
        pytest.param({"launches": "other"}, id="other-launches"),
        pytest.param({"fingerprint": "other"}, id="other-environment"),
        pytest.param({"commit": "c" * 40}, id="other-commit"),
    ],
)
def test_what_differs_is_not_measured_when_it_was_not_timed(
    comparison: Any, rounds: Made, qkv: Series, rms: Series, head: dict[str, str]
) -> None:
    comparison.asked(qkv, rms)
    comparison.measured(rounds())
    look(comparison, rms, **head)
    assert (comparison.judge().status, comparison.judge().unchanged) == ("not-measured", [])


def test_launches_that_cannot_be_seen_are_no_proof(comparison: Any, rms: Series) -> None:
    comparison.asked(rms)
    look(comparison, rms)
    seen = read_lines(comparison.folder / joint.LOOKS, Look)[0]
    request = joint.read_json(comparison.folder / joint.ASKED, joint.Asked)
    assert joint.unchanged(request, [replace(one, launches="") for one in seen]) == []


def test_what_was_timed_all_the_same_is_judged(same: Any, rounds: Made, rms: Series) -> None:
    same.measured(rounds(0.05, series=rms))
    assert (same.judge().status, same.judge().unchanged) == ("regressed", [])


def test_with_nothing_left_to_time_speed_passes_and_says_so(comparison: Any, rms: Series) -> None:
    comparison.asked(rms)
    look(comparison, rms)
    assert (comparison.judge().status, comparison.judge().sentence) == (
        "pass",
        "No series was timed: 1 unchanged and not timed.",
    )


@pytest.mark.parametrize("golden", ["regressed", "not-measured"])
def test_unchanged_kernels_are_no_pass_of_the_image(comparison: Any, rms: Series, golden: str) -> None:
    comparison.asked(rms)
    comparison.numerics(golden=golden)
    look(comparison, rms)
    assert comparison.judge(with_image=True).status == golden


def test_every_output_lists_what_was_not_timed(same: Any, rms: Series) -> None:
    verdict = same.judge()
    case = next(
        one for one in ElementTree.fromstring(told.junit(verdict)) if one.get("name") == rms.label and len(one) == 1
    )
    said = [told.terminal(verdict), told.markdown(verdict), told.github(verdict), case[0].get("message")]
    assert all("unchanged kernel, not timed" in (text or "") for text in said)


def test_launches_of_a_call_are_in_order() -> None:
    import torch

    x = torch.ones(3)
    names = [line.split(" grid ")[0] for line in launches(lambda: (x + 1).neg(), "cpu")]
    assert (names[0], names[-1]) == ("aten::add", "aten::neg")


def test_no_launch_has_no_digest() -> None:
    assert (digest([]), len(digest(["aten::add"]))) == ("", 12)


@pytest.mark.gpu
def test_a_real_gpu_shows_its_launches_with_their_grids() -> None:
    import torch

    x = torch.ones(1 << 20, device="cuda")
    [line] = launches(lambda: x + 1, "cuda")
    assert "grid [" in line
    assert "block [" in line
