"""Approving: who may, what is written, and what is refused. Each test has a git repository of its own."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.harness import golden_accept, images
from benchmarks.harness.golden_accept import Approver, accept, approver
from benchmarks.harness.golden_case import read_case
from benchmarks.harness.images import read_png
from tests.golden.conftest import approve, change, commit, plan, proposed
from tests.golden.test_goldens import NAN, UNBIASED

ADA = Approver("Ada <ada@example.org>", "because", "0" * 40)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    (root / "code.py").write_text("1\n")
    for name in ("small", "other"):
        (root / "golden_images" / name).mkdir(parents=True)
        (root / "golden_images" / name / "case.json").write_text("{}\n")
    commit(root)
    return root


def test_the_approver_is_who_git_says(repository: Path) -> None:
    found = approver(repository, "  a better\n kernel ")
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert found == Approver("Ada <ada@example.org>", "a better kernel", head.stdout.strip())


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_no_reason_is_refused(repository: Path, reason: str) -> None:
    with pytest.raises(ValueError, match="a golden needs a reason"):
        approver(repository, reason)


def test_a_dirty_tree_is_refused(repository: Path) -> None:
    (repository / "code.py").write_text("2\n")
    with pytest.raises(ValueError, match=r"the tree is dirty: 1 files differ from HEAD \(code\.py\)"):
        approver(repository, "because")


def test_a_staged_change_is_refused(repository: Path) -> None:
    (repository / "new.py").write_text("2\n")
    subprocess.run(["git", "-C", str(repository), "add", "new.py"], check=True)
    with pytest.raises(ValueError, match=r"\(new\.py\)"):
        approver(repository, "because")


def test_other_goldens_and_untracked_files_leave_the_tree_clean(repository: Path) -> None:
    (repository / "golden_images/other/case.json").write_text('{"limits": 1}\n')
    (repository / "golden_images/small/expected.png").write_text("new")
    (repository / "notes.txt").write_text("mine\n")
    approver(repository, "because", ["small"])


@pytest.mark.parametrize("file", ["case.json", "input.png"])
def test_a_request_that_is_not_committed_is_refused(repository: Path, file: str) -> None:
    (repository / "golden_images/small" / file).write_text("new")
    with pytest.raises(
        ValueError, match=rf"1 files differ from HEAD \(golden_images/small/{file}\); commit them first"
    ):
        approver(repository, "because", ["other", "small"])


def test_outside_a_repository_nothing_is_approved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run this inside a clone"):
        approver(tmp_path, "because")


def test_the_first_approval_records_everything(unapproved: Path) -> None:
    accept([proposed(unapproved)], ADA)
    case, file = read_case(unapproved), (unapproved / "expected.png").read_bytes()
    approval = case.approval
    assert approval is not None
    assert (approval.approved_by, approval.reason, approval.commit) == (ADA.name, ADA.reason, ADA.commit)
    assert approval.png_sha256 == hashlib.sha256(file).hexdigest()
    assert approval.rgb == images.fingerprint(read_png(unapproved / "expected.png"))
    assert (approval.made_by, approval.witness) == ("reference in float32 on cpu", "reference in float64 on cpu")
    assert approval.environment.torch == torch.__version__
    assert approval.agreement["latent_relative_l2"] > 0
    assert (approval.previous, approval.change, case.stale()) == ("", {}, "")


def test_approval_leaves_the_rest_of_the_case_as_it_was(unapproved: Path) -> None:
    before = json.loads((unapproved / "case.json").read_text())
    approve(unapproved)
    after = json.loads((unapproved / "case.json").read_text())
    assert {**after, "provenance": None} == before


def test_a_second_approval_records_the_old_picture_and_the_change(approved: Path) -> None:
    before = read_case(approved).approval
    change(approved, seed=2)
    accept([proposed(approved)], ADA)
    after = read_case(approved).approval
    assert before is not None
    assert after is not None
    assert after.previous == before.rgb != after.rgb
    assert after.change["absmax"] > 1


def test_an_edit_records_its_input(edit: Path) -> None:
    approve(edit)
    approval = read_case(edit).approval
    assert approval is not None
    assert approval.input_rgb == images.fingerprint(read_png(edit / "input.png"))
    assert approval.rgb.startswith("32x48x3:")


@pytest.mark.parametrize(
    ("ops", "says"),
    [
        pytest.param(UNBIASED, "absmax", id="other-picture"),
        pytest.param(NAN, "no picture was made", id="no-picture"),
    ],
)
def test_what_the_witness_does_not_confirm_is_refused(approved: Path, ops: object, says: str) -> None:
    before = {path.name: path.read_bytes() for path in approved.iterdir()}
    proposal = proposed(approved, plan("my.kernels:OPS", ops))  # type: ignore[arg-type]
    assert proposal.refusal.startswith("small: reference in float64 on cpu does not confirm the picture")
    with pytest.raises(ValueError, match=rf"{says}.*nothing was accepted"):
        accept([proposed(approved), proposal], ADA)
    assert {path.name: path.read_bytes() for path in approved.iterdir()} == before


def test_a_damaged_golden_can_be_replaced(approved: Path) -> None:
    (approved / "expected.png").write_bytes(b"\xff\xd8\xff")
    approve(approved)
    assert read_case(approved).expected() is not None


def test_cut_short_between_picture_and_provenance_the_golden_is_refused(
    approved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    change(approved, seed=2)
    proposal = proposed(approved)
    monkeypatch.setattr(golden_accept, "write_approval", killed)
    with pytest.raises(KeyboardInterrupt):
        accept([proposal], ADA)
    with pytest.raises(ValueError, match="was approved; restore it from git"):
        read_case(approved).expected()
