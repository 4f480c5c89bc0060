"""One project for all tests of tables: making it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.table_project import Project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def restored(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The project as the current folder; what a test changes in tracked files is undone."""
    monkeypatch.chdir(project.root)
    yield project
    project.run("git", "reset", "-q", "--hard")
