"""Results of a run, for the commands that take them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.results import results


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    results(folder)
    return folder / "out"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(made, tmp_path / "out"))
