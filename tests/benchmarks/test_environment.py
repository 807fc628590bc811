import dataclasses

import pytest
import torch

from benchmarks.harness import clock, environment

ROOT = environment.repository_root()


def test_profile_follows_the_gpu():
    assert environment.here().profile == ("gpu" if torch.cuda.is_available() else "cpu")


def test_fingerprint_changes_with_the_driver():
    here = environment.here()
    assert dataclasses.replace(here, driver="999").fingerprint != here.fingerprint


def test_provenance_names_head_and_the_protocol(tmp_path):
    found = environment.provenance(ROOT, seed=3, command="motbench nightly")
    assert (found.commit, found.protocol, found.seed) == (environment.git(ROOT, "rev-parse", "HEAD"), clock.PROTOCOL, 3)


def test_git_failure_is_one_line_with_a_cure(tmp_path):
    with pytest.raises(ValueError, match=r"rev-parse HEAD.*run this inside a clone"):
        environment.git(tmp_path, "rev-parse", "HEAD")


def test_new_file_makes_the_tree_dirty(tmp_path):
    environment.git(tmp_path, "init", "--quiet")
    assert environment.changed_files(tmp_path) == []
    (tmp_path / "new").touch()
    assert environment.changed_files(tmp_path) == ["?? new"]
