"""Every import in the project is one that the table of docs/architecture.md allows."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\| `(\w+)/` \|.*\| (.+) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
PACKAGES = [folder for folder, _ in ROWS if any((ROOT / folder).glob("*.py"))]
JUDGED = {folder: re.findall(r"`([\w.]+)`", may) for folder, may in ROWS if folder in PACKAGES and may != "anything"}


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """(file, dotted name) of every import; a name that is taken from a module is part of it only if it is a module."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path.name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports by dots"
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield path.name, whole if _is_module(whole) else str(node.module)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def allowed(name: str, parts: list[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def test_the_table_lists_every_package() -> None:
    code = {path.parent.name for path in ROOT.glob("*/*.py") if not path.parent.name.startswith(".")}
    assert code == set(PACKAGES)


@pytest.mark.parametrize("folder", JUDGED)
def test_a_package_imports_only_what_the_table_allows(folder: str) -> None:
    inside = [one for one in imports(folder) if one[1].split(".")[0] in PACKAGES]
    assert [one for one in inside if not allowed(one[1], [folder, *JUDGED[folder]])] == []


def test_the_specification_needs_only_torch() -> None:
    known = {*sys.stdlib_module_names, "torch", "reference_impl"}
    assert [one for one in imports("reference_impl") if one[1].split(".")[0] not in known] == []


def test_reports_never_import_torch() -> None:
    assert [one for one in imports("reports") if one[1].split(".")[0] == "torch"] == []
