"""Which folders are golden cases, which of them ask for text instead of a picture, and how case.json is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of case.json."""

GOLDENS = "golden_images"
CASE, INPUT = "case.json", "input.png"
CHECKPOINT = "checkpoint"
"""The folder beside the cases that holds the small model; every other folder there is a case."""


def case_folders(goldens: Path, names: Sequence[str] | None = None) -> list[Path]:
    """The folders of the cases, by name; all of them for None or nothing.

    Raises OSError, or ValueError for an unknown name and for a folder without cases.
    """
    folders = {path.name: path for path in sorted(goldens.iterdir()) if path.is_dir() and path.name != CHECKPOINT}
    if unknown := [name for name in names or () if name not in folders]:
        raise ValueError(f"golden case {', '.join(unknown)} is unknown; {goldens} has {', '.join(folders)}")
    if not folders:
        raise ValueError(f"{goldens} holds no golden case; docs/golden-images.md says how to add one")
    return [folders[name] for name in names or folders]


def asks(folder: Path) -> bool:
    """Whether a case asks a question (golden_answers). What cannot be read is left to `facts_of` to refuse."""
    try:
        return bool(json.loads((folder / CASE).read_text(encoding="utf-8"))["request"]["task"] == "understand")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def facts_of(path: Path, known: set[str]) -> dict[str, Any]:
    """What a case.json holds. Raises OSError, or ValueError for no JSON, another format and fields not in `known`."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise ValueError(f"format is {found!r} but must be {FORMAT}")
    if unknown := set(facts) - known:
        raise ValueError(f"unknown fields {sorted(unknown)}")
    return facts


def request_sha256(facts: dict[str, Any]) -> str:
    """Of the request as case.json has it, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(facts["request"], sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def refused_in_one_line(path: Path) -> Iterator[None]:
    """What is wrong inside becomes one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist, but every folder beside it is a golden case") from error
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}; docs/golden-images.md lists the fields") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no golden case: {error}; docs/golden-images.md lists the fields") from error
