"""A small golden case (32 x 32, one update) in a folder of its own, approved once and copied for each test."""

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reference_impl
from benchmarks.harness import golden_accept
from benchmarks.harness.environment import repository_root
from benchmarks.harness.golden_accept import Approver, Proposal
from benchmarks.harness.golden_case import read_case
from benchmarks.harness.goldens import Plan
from benchmarks.harness.records import Rate
from reference_impl.contract import MoTOps

CHECKPOINT = repository_root() / "tests/data/bagel_oracle/checkpoint"
EXACT = {"absmax": 1.0, "share_over_0": 0.003, "ssim_worst_tile": 0.9999, "flip_worst_tile": 0.001}
REQUEST = {
    "task": "t2i",
    "checkpoint": str(CHECKPOINT),
    "prompt": "a red cat",
    "seed": 1,
    "steps": 2,
    "timestep_shift": 1.0,
    "guidance": {
        "text_scale": 1.0,
        "image_scale": 1.0,
        "interval": [0.0, 1.0],
        "renorm_type": "global",
        "renorm_min": 0.0,
    },
    "height": 32,
    "width": 32,
}
FACTS = {
    "format": 1,
    "exercises": "tests",
    "interpreter": True,
    "request": REQUEST,
    "limits": {"parity": {"float32": {**EXACT, "latent_relative_l2": 1e-6}}, "drift": {"float32": EXACT}},
    "provenance": None,
}
EDIT = {
    "task": "img2img",
    "height": None,
    "width": None,
    "vae_resize": {"max_size": 48, "min_size": 32, "stride": 16},
    "vit_resize": {"max_size": 42, "min_size": 28, "stride": 14},
}


def plan(impl: str = "reference", ops: MoTOps = reference_impl.OPS, dtype: torch.dtype = torch.float32) -> Plan:
    return Plan(impl, ops, reference_impl.OPS, torch.device("cpu"), dtype)


def change(folder: Path, **fields: Any) -> None:
    """Change fields of case.json, those of the request by their own names."""
    facts = json.loads((folder / "case.json").read_text())
    for name, value in fields.items():
        (facts if name in facts else facts["request"])[name] = value
    (folder / "case.json").write_text(json.dumps(facts))


def commit(root: Path, message: str = "first") -> None:
    """Put everything in `root` into a git repository there, by Ada."""
    for words in (
        ["init", "-q"],
        ["config", "user.name", "Ada"],
        ["config", "user.email", "ada@example.org"],
        ["add", "."],
        ["commit", "-q", "-m", message],
    ):
        subprocess.run(["git", "-C", str(root), *words], check=True)


@pytest.fixture(autouse=True, scope="module")
def small_model(one_thread: None) -> None:
    """Nothing here gains from a second thread."""


@pytest.fixture
def unapproved(tmp_path: Path) -> Path:
    """A case's folder without a golden."""
    folder = tmp_path / "golden_images" / "small"
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(FACTS))
    return folder


@pytest.fixture
def edit(unapproved: Path) -> Path:
    """An image-to-image case without a golden."""
    change(unapproved, **EDIT)
    y, x = np.mgrid[:32, :48]
    Image.fromarray(np.stack([5 * x, 7 * y, x + y], axis=2).astype(np.uint8)).save(unapproved / "input.png")
    return unapproved


def proposed(folder: Path, judged: Plan | None = None) -> Proposal:
    """A proposal as it is once the rates of the case's limits are measured."""
    proposal = golden_accept.propose(read_case(folder), judged or plan())
    return dataclasses.replace(proposal, rates={"false alarms": Rate(0, 299, 0.0, 0.01)}, unmeasured="")


def approve(folder: Path, reason: str = "tests") -> None:
    golden_accept.accept([proposed(folder)], Approver("Ada <ada@example.org>", reason, "0" * 40))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "golden_images" / "small"
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(FACTS))
    approve(folder)
    return folder


@pytest.fixture
def approved(template: Path, tmp_path: Path) -> Path:
    """A case's folder with its golden."""
    return Path(shutil.copytree(template, tmp_path / "golden_images" / "small"))


@pytest.fixture
def damage(approved: Path) -> Callable[[Callable[[Image.Image], Image.Image]], Path]:
    """A function that replaces the golden by what another function makes of it."""

    def replace(fault: Callable[[Image.Image], Image.Image]) -> Path:
        path = approved / "expected.png"
        with Image.open(path) as picture:
            fault(picture).save(path, format="PNG")
        return approved

    return replace
