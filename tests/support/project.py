"""A project of the real dvc.yaml: with the real `vidseg`, or quick ones with a stand-in that computes nothing."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stages.common import settings
from tests.support import stand_in, yaml
from tests.support.commands import ENVIRONMENT
from tests.support.places import ROOT

ITEM_STAGES = ("ingest", "extract", "correspond", "segment", "upsample", "evaluate", "render")
#: Stages of concepts and of what they are applied to.
APPLIED_STAGES = ("references", "learn", "track", "apply", "evaluate_applied", "render_applied")


class Project:
    """A checkout's pipeline files in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("dvc.yaml", "versions.yaml", "inputs"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / name)
        self.params = yaml.safe_load((ROOT / "params.yaml").read_text())
        self.applied_stages: tuple[str, ...] = ()
        bin_folder = Path(sys.executable).parent
        self.environment = {**ENVIRONMENT, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
        self.environment["DVC_SITE_CACHE_DIR"] = str(folder / "site")
        self.run("dvc", "init", "--no-scm", "-q")
        self.run("dvc", "config", "core.analytics", "false")

    def run(self, *command: str) -> str:
        """Run a command here; returns what it prints. Fails the test unless it succeeds."""
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    def write_params(self) -> None:
        """Write params.yaml from `params`; raises UsageError for what is no parameter, which a stand-in would take."""
        file = self.folder / "params.yaml"
        file.write_text(yaml.safe_dump(self.params))
        settings.load(file)

    def change(self, section: str, key: str, value: object) -> None:
        """Set one parameter and write params.yaml."""
        self.params[section][key] = value
        self.write_params()

    def write_videos(
        self,
        items: dict[str, list[dict[str, object]]],
        concepts: dict[str, dict[str, str]] | None = None,
        applied: dict[str, dict[str, str]] | None = None,
    ) -> None:
        """videos.yaml of these; a path of an item, or names of what is applied, that is not given is inputs/none."""
        none = dict.fromkeys(("ground_truth", "classes", "mask", "names"), "inputs/none")
        content = {key: [none | entry for entry in entries] for key, entries in items.items()}
        with_names = {key: {"names": "inputs/none", **entry} for key, entry in (applied or {}).items()}
        self.applied_stages = APPLIED_STAGES if applied else ()
        everything = {"items": content, "concepts": concepts or {}, "applied": with_names}
        (self.folder / "videos.yaml").write_text(yaml.safe_dump(everything))

    def repro(self, *targets: str) -> list[str]:
        """Run `dvc repro` of all stages, or of these and `summarize`; returns those that ran, in order."""
        return self.run_stages(*(targets or (*ITEM_STAGES, *self.applied_stages)), "summarize")

    def run_stages(self, *targets: str) -> list[str]:
        """Run `dvc repro` of just these stages; returns those that ran, in order."""
        return _ran(self.print_repro(*targets))

    def print_repro(self, *targets: str) -> str:
        """What `dvc repro` of just these stages prints."""
        return self.run("dvc", "repro", *targets)

    def is_up_to_date(self) -> bool:
        """What `dvc status` says of all stages."""
        return "up to date" in self.run("dvc", "status", *ITEM_STAGES, "summarize")


class QuickProject(Project):
    """A project for what dvc.yaml alone decides, that is, what runs: a stand-in for `vidseg`, DVC in this process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        program = folder / "bin" / "vidseg"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {stand_in.__file__} "$@"\n')
        program.chmod(0o755)
        self.environment["PATH"] = f"{program.parent}{os.pathsep}{self.environment['PATH']}"

    def print_repro(self, *targets: str) -> str:
        with self._dvc() as repo, _logged() as lines:
            repo.reproduce(list(targets))
        return "\n".join(lines)

    def is_up_to_date(self) -> bool:
        with self._dvc() as repo:
            return not repo.status([*ITEM_STAGES, *self.applied_stages, "summarize"])

    @contextmanager
    def _dvc(self) -> Iterator[Any]:
        from dvc.repo import Repo

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            with Repo() as repo:
                yield repo


@contextmanager
def _logged() -> Iterator[list[str]]:
    """What DVC says meanwhile; its own handlers print to the streams that there were when it was imported."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("dvc")
    kept, logger.handlers = logger.handlers, [Collector()]
    try:
        yield lines
    finally:
        logger.handlers = kept


def _ran(printed: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", printed)


def stages_of(names: list[str]) -> list[str]:
    """stage@item, ... -> the stages, each once, in alphabetical order."""
    return sorted({name.partition("@")[0] for name in names})
