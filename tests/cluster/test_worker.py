"""A worker's clone of the project."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError, ResourceError
from stages.cluster.distribute import _outcome
from stages.cluster.worker import Clone, Interrupted, NoClone, Site


def test_inputs_are_linked_with_what_hides_their_files_from_dvc(tmp_path: Path) -> None:
    """DVC would otherwise watch in the clone what the project's own DVC does not, and find other inputs."""
    project, clone = tmp_path / "project", tmp_path / "clone"
    item = project / "inputs/vspw/vspw-000"
    (item / "a/frames").mkdir(parents=True)
    files = ("inputs/vspw/.dvcignore", "inputs/vspw/vspw-000/index.json", "inputs/vspw/vspw-000/a/frames/0.png")
    for name in files:
        (project / name).write_text(name)
    other = "inputs/vspw/registration.json"
    (project / other).write_text("not read by stages")
    site = Site(project, "HEAD", tmp_path, tmp_path, tmp_path, tmp_path, 1, (), {})
    Clone(site, clone).bring(("inputs/vspw/vspw-000/a/frames", "inputs/vspw/vspw-000/index.json"))
    assert [(clone / name).read_text() for name in files] == list(files)
    assert not (clone / other).exists()


@pytest.mark.parametrize(
    ("git", "cache", "kind", "code", "said"),
    [
        ("exit 0", "nowhere", NoClone, DataError.exit_code, "it must lie on a shared file system"),
        ("echo fatal: not yours >&2; exit 128", ".", NoClone, DataError.exit_code, "fatal: not yours"),
        (None, ".", NoClone, DataError.exit_code, "'git'"),
        (f"echo '{os.strerror(errno.ENOSPC)}' >&2; exit 128", ".", Interrupted, ResourceError.exit_code, "No space"),
    ],
)
def test_only_what_another_time_may_help_ends_with_the_code_of_resources(
    tmp_path: Path, git: str | None, cache: str, kind: type[Exception], code: int, said: str, monkeypatch: Any
) -> None:
    """Exit code 5 says to run the command again; a folder that is not shared stays so."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if git is not None:
        (programs / "git").write_text(f"#!/bin/sh\n{git}\n")
        (programs / "git").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs))
    site = Site(tmp_path, "HEAD", tmp_path / cache, tmp_path, tmp_path, tmp_path, 1, (), {})
    with pytest.raises(kind, match=said) as met:
        Clone(site, tmp_path / "clone").make()

    class Ended:
        def exception(self) -> BaseException:
            return met.value

    assert _outcome("car", Ended(), retries=0).exit_code == code  # type: ignore[arg-type]
