import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from benchmarks.harness import doctor, environment

ROOT = environment.repository_root()


def found(root, name):
    (check,) = [check for check in doctor.examine(root) if check.name == name]
    return check


@pytest.fixture
def repository(tmp_path):
    environment.git(tmp_path, "init", "--quiet")
    for name, text in (("user.name", "t"), ("user.email", "t@example.org"), ("commit.gpgsign", "false")):
        environment.git(tmp_path, "config", name, text)
    environment.git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=first")
    return tmp_path


def test_clean_repository_is_ok(repository):
    assert found(repository, "git").status == "ok"


def test_dirty_tree_is_a_warning_that_names_a_file(repository):
    (repository / "new").touch()
    check = found(repository, "git")
    assert check.status == "warning"
    assert "new" in check.found


def test_no_repository_is_a_failure(tmp_path):
    check = found(tmp_path, "git")
    assert check.status == "failed"
    assert "inside a clone" in check.found


def test_missing_checkpoint_is_a_failure_with_a_cure(repository):
    check = found(repository, "checkpoint")
    assert (check.status, check.cure) == ("failed", "git checkout -- tests/data/bagel_oracle/checkpoint")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("content", [None, POINTER, b""], ids=["truncated", "pointer", "empty"])
@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors", "tokenizer.json", "llm_config.json"])
def test_damaged_checkpoint_is_a_failure_with_a_cure(tmp_path, name, content):
    folder = tmp_path / doctor.CHECKPOINT
    shutil.copytree(ROOT / doctor.CHECKPOINT, folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-10] if content is None else content)
    check = found(tmp_path, "checkpoint")
    assert (check.status, check.cure) == ("failed", f"git checkout -- {doctor.CHECKPOINT}")
    assert name in check.found


def test_whole_checkpoint_is_ok():
    assert found(ROOT, "checkpoint").status == "ok"


def test_every_package_of_the_project_is_looked_for():
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    names = {re.split(r"[><=]", one)[0].replace("-", "_") for one in wanted}
    imported = {"pillow": "PIL", "scikit_image": "skimage"}
    assert {imported.get(name, name) for name in names} - {"numpy"} == set(doctor.MODULES)


def test_full_disk_is_a_failure(repository, monkeypatch):
    monkeypatch.setattr(doctor, "DISK_NEEDED", 1 << 80)
    monkeypatch.setattr(doctor, "DISK_WANTED", 1 << 81)
    assert found(repository, "disk").status == "failed"


def test_untested_asv_is_a_warning(repository, monkeypatch):
    monkeypatch.setattr(doctor, "KNOWN_ASV", doctor.KNOWN_ASV | {"asv": "0.0.1"})
    assert found(repository, "asv").status == "warning"


@pytest.mark.parametrize(("version", "status"), [("12.3.0", "failed"), ("13.0.0", "ok"), ("14.1", "ok")])
def test_a_pillow_that_resizes_differently_is_a_failure(repository, monkeypatch, version, status):
    monkeypatch.setattr(doctor, "version_of", lambda name: version)
    assert found(repository, "pillow").status == status


def test_interpreter_with_a_new_numpy_is_a_failure(repository, monkeypatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: "2.4.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert found(repository, "numpy").status == "failed"


def test_triton_that_torch_does_not_want_is_a_failure(repository, monkeypatch):
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["triton==9.9.9; platform_system == 'Linux'"])
    check = found(repository, "triton")
    assert (check.status, check.cure) == ("failed", "pip install triton==9.9.9")


def test_a_torch_that_does_not_import_is_a_failure_with_its_cure(repository, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    check = found(repository, "torch")
    assert check.status == "failed"
    assert "but it does not import" in check.found
    assert "pip install torch" in check.cure


@pytest.mark.parametrize("name", doctor.NEED_TORCH)
def test_what_needs_torch_says_so_in_one_line(repository, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch", None)
    check = found(repository, name)
    assert (check.status, check.found) == ("failed", "not looked at, because torch does not import")


def test_path_set_by_the_user_is_a_warning(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert found(repository, "path").status == "warning"


def test_command_writes_the_checks_and_leaves_with_their_code(tmp_path):
    file = tmp_path / "doctor.json"
    done = subprocess.run([sys.executable, "-m", "motbench", "doctor", "--json", str(file)], cwd=ROOT, check=False)
    failed = any(check["status"] == "failed" for check in json.loads(file.read_text()))
    assert done.returncode == (2 if failed else 0)
