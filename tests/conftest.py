"""Fixtures shared by all tests: tiny models, clips and the folder of real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import tiny, tiny_video
from tests.support.places import SHARED, TESTS
from tests.support.table_project import Project

#: Files that take longest, the longest first: `make test` gives a process a file at a time, and ends with short ones.
LONGEST = (
    "whole/test_faults.py",
    "whole/test_cluster.py",
    "reference/test_video_model.py",
    "whole/test_dag.py",
    "reference/test_image_model.py",
    "tables/test_command.py",
    "whole/test_sharing.py",
    "whole/test_method.py",
)

#: Folders and files whose tests run several commands, or count whole runs of models at their published size.
WHOLE = ("whole/", "benchmarks/", "commands/test_run.py", "cost/test_counting.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well: `make test-all`")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test by its folder, leave slow ones out unless they are asked for, and put the longest files first.

    Elsewhere a single test that runs many processes is marked whole where it stands.
    """
    chosen, left_out = [], []
    for item in items:
        place = item.path.relative_to(TESTS).as_posix()
        if item.get_closest_marker("whole") is None:
            is_whole = place.startswith(WHOLE)
            item.add_marker("whole" if is_whole else "reference" if place.startswith("reference/") else "unit")
        is_wanted = item.get_closest_marker("slow") is None or config.option.slow or "slow" in config.option.markexpr
        (chosen if is_wanted else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    places = {str(TESTS / name): place for place, name in enumerate(LONGEST)}
    items[:] = sorted(chosen, key=lambda item: places.get(str(item.path), len(LONGEST)))


@pytest.fixture(autouse=True, scope="session")
def few_threads() -> None:
    """One thread: tiny tensors gain nothing from more, and results then do not depend on the machine."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def no_dvc_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may themselves run inside a DVC stage; commands must not take its item."""
    monkeypatch.delenv("DVC_STAGE", raising=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny seeded model in diffusers layout."""
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_video_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny seeded video model in diffusers layout."""
    return tiny_video.save_model(tmp_path_factory.mktemp("models") / "tiny_video")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """../shared/data beside the checkout: real videos with ground truth; skips where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real videos are not here ({folder.name}: the folder ../shared/data is absent)")
    return folder


@pytest.fixture
def rng() -> Iterator[np.random.Generator]:
    yield np.random.default_rng(0)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in git, for tables and sweeps: making it takes seconds."""
    return Project(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def restored(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The project as the current folder; what a test changes in tracked files is undone."""
    monkeypatch.chdir(project.root)
    yield project
    project.run("git", "reset", "-q", "--hard")
