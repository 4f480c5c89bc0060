"""A project in a git repository of its own, for tests of tables: a registered item of two clips, one of no data set."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.layout import NONE, PATHS
from tests.support import tiny, yaml
from tests.support.commands import ENVIRONMENT, vidseg, write_frames, write_labels
from tests.support.places import ROOT


class Project:
    """A project with a tiny model and upsampling by interpolation, which is quick."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "raw"
        self.root = folder / "project"
        self.root.mkdir()
        for name in ("dvc.yaml", "versions.yaml", "inputs", ".gitignore", ".dvcignore"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.root / name)
        model = tiny.save_model(folder / "model")
        rng = np.random.default_rng(0)
        for name in "ab":
            frames = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
            frames[:, :, 24:] //= 4
            labels = np.zeros((4, 64, 64), np.uint8)
            labels[:, :, 24:] = 1
            write_frames(self.data / name, frames)
            write_labels(self.data / f"{name}-truth", labels)
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params["backbone"]["path"] = str(model)
        params["ingest"]["size"] = "native"
        params["segment"]["clusters"] = 2
        params["evaluate"]["windows"] = [2]
        self.write("params.yaml", params)
        extra = {key: value for key, value in self.entry("a").items() if key != "dataset"}
        self.write(
            "videos.yaml",
            yaml.videos({"clips": [self.entry("a"), self.entry("b")], "extra": [extra]}),
        )
        vidseg("backbone", "lock", "--params", "params.yaml", cwd=self.root)
        self.run("git", "init", "-q")
        self.run("git", "config", "user.name", "test")
        self.run("git", "config", "user.email", "test@example.org")
        self.run(sys.executable, "-m", "dvc", "init", "-q")
        self.run(sys.executable, "-m", "dvc", "config", "core.analytics", "false")
        self.commit()

    def entry(self, name: str) -> dict[str, Any]:
        paths = {"path": str(self.data / name), "ground_truth": str(self.data / f"{name}-truth")}
        return {**dict.fromkeys(PATHS, NONE), **paths, "name": name, "dataset": "camvid-tiny"}

    def write(self, name: str, content: Any) -> None:
        (self.root / name).write_text(yaml.safe_dump(content))

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", "state")

    def run(self, *command: str) -> str:
        result = subprocess.run(command, cwd=self.root, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout
