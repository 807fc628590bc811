"""The oracle's folder, its loaded model, and copies of its checkpoint to damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import reference_impl
from bagel.pipeline import BagelPipeline

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def oracle() -> Path:
    return DATA / "bagel_oracle"


@pytest.fixture(scope="session")
def pipeline(oracle: Path) -> BagelPipeline:
    return BagelPipeline.from_checkpoint(oracle / "checkpoint", reference_impl.OPS)


@pytest.fixture
def checkpoint(oracle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(oracle / "checkpoint", tmp_path / "checkpoint"))


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """edit_json(path, key=value, ...) sets fields of a JSON object; None removes one."""

    def edit(path: Path, **changes: object) -> None:
        value = json.loads(path.read_text())
        value.update(changes)
        path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))

    return edit
