"""The tests are where the code is, and each stands alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import LONGEST
from tests.support.places import ROOT, TESTS

#: Folders of tests that mirror none of the code.
OWN = {"benchmarks", "data", "reference", "support", "whole"}


def imported(file: Path) -> set[str]:
    """Modules of tests/ that a file imports, or that it imports names from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("tests.")}


@pytest.mark.parametrize("file", sorted(TESTS.rglob("*.py")), ids=lambda file: str(file.relative_to(TESTS)))
def test_no_test_imports_another(file: Path) -> None:
    """What two of them need lies in tests/support or in conftest.py."""
    assert not [name for name in imported(file) if any(part.startswith("test_") for part in name.split("."))]


def test_folders_mirror_the_code() -> None:
    code = {folder.name for top in ("pipeline", "stages") for folder in (ROOT / top).iterdir() if folder.is_dir()}
    here = {folder.name for folder in TESTS.iterdir() if folder.is_dir() and any(folder.glob("*.py"))}
    assert here - OWN - {"stages"} <= code


def test_few_files_lie_at_the_top() -> None:
    assert len([path for path in TESTS.iterdir() if path.is_file()]) <= 12


def test_the_longest_files_exist() -> None:
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []
