"""Two clones, two experiments: features are computed once, whether the clones share a disk or only a remote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny, yaml
from tests.support.commands import ENVIRONMENT, error_line, tree_bytes, vidseg, write_frames
from tests.support.places import ROOT

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
BEFORE_SEGMENT = ["correspond@one", "extract@one", "ingest@one"]


@dataclass(frozen=True)
class Clone:
    """A git clone of the project."""

    folder: Path

    def run(self, *command: str) -> str:
        environment = {
            **ENVIRONMENT,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / f"{self.folder.name}-site"),
        }
        result = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    def set_clusters(self, clusters: int) -> None:
        params = yaml.safe_load((self.folder / "params.yaml").read_text())
        params["segment"]["clusters"] = clusters
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))

    def repro(self, *options: str) -> tuple[list[str], list[str]]:
        """`dvc repro segment`: the stages that ran, and those that came from the cache."""
        printed = self.run("dvc", "repro", *options, "segment")
        cached = re.findall(r"Stage '([^']+)' is cached - skipping run", printed)
        return sorted(re.findall(r"Running stage '([^']+)'", printed)), sorted(cached)

    @property
    def features(self) -> Path:
        return self.folder / "data/extract/one/features.zarr"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of one video and a tiny model."""
    folder = tmp_path_factory.mktemp("team") / "origin"
    shutil.copytree(ROOT / "inputs" / "none", folder / "inputs" / "none")
    for name in ("dvc.yaml", "versions.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    write_frames(folder / "frames", frames)
    tiny.save_model(folder / "model")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["backbone"]["path"] = "model"
    params["ingest"]["size"] = "native"
    params["segment"]["clusters"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    entry = {"path": "frames", **dict.fromkeys(("ground_truth", "classes", "mask", "names"), "inputs/none")}
    (folder / "videos.yaml").write_text(yaml.safe_dump(yaml.videos({"one": [entry]})))
    made = Clone(folder)
    made.run("git", "init", "-q")
    made.run("dvc", "init", "-q")
    made.run("dvc", "config", "core.analytics", "false")
    made.run("vidseg", "backbone", "lock", "--params", "params.yaml")
    (folder / ".gitignore").write_text("/data/\n")
    made.run("git", "add", "-A")
    made.run("git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "project")
    return folder


def clone(origin: Path, name: str, cache: Path) -> Clone:
    folder = origin.parent / name
    subprocess.run(["git", "clone", "-q", origin, folder], check=True)
    made = Clone(folder)
    made.run("dvc", "cache", "dir", "--local", str(cache))
    return made


@pytest.fixture(scope="module")
def first(origin: Path) -> Clone:
    """Experiment A, run through `segment`, in a clone that uses a shared cache and pushes to a remote."""
    made = clone(origin, "a", origin.parent / "shared")
    assert made.repro() == (sorted([*BEFORE_SEGMENT, "segment@one"]), [])
    made.run("dvc", "remote", "add", "-d", "team", str(origin.parent / "remote"))
    made.run("dvc", "push", "--run-cache")
    return made


def test_a_clone_on_the_same_disk_reuses_features(origin: Path, first: Clone) -> None:
    second = clone(origin, "b", origin.parent / "shared")
    second.set_clusters(3)
    assert second.repro() == (["segment@one"], BEFORE_SEGMENT)
    assert tree_bytes(second.features) == tree_bytes(first.features)


def test_a_clone_on_another_machine_reuses_features(origin: Path, first: Clone) -> None:
    """With the dvc.lock that experiment A's author committed: what it names is pulled, and only `segment` is new."""
    third = clone(origin, "c", origin.parent / "own cache")
    third.run("dvc", "remote", "add", "-d", "team", str(origin.parent / "remote"))
    shutil.copy(first.folder / "dvc.lock", third.folder)
    third.run("dvc", "pull", "--run-cache", "ingest", "extract", "correspond", "segment")
    third.set_clusters(4)
    assert third.repro() == (["segment@one"], [])
    assert tree_bytes(third.features) == tree_bytes(first.features)


def test_a_clone_on_another_machine_reuses_features_without_a_lock(origin: Path, first: Clone) -> None:
    """Without dvc.lock the records of the run-cache tell what A computed, and `repro --pull` fetches it."""
    fourth = clone(origin, "d", origin.parent / "another cache")
    fourth.run("dvc", "remote", "add", "-d", "team", str(origin.parent / "remote"))
    fourth.run("dvc", "fetch", "--run-cache")
    fourth.set_clusters(4)
    assert fourth.repro("--pull") == (["segment@one"], BEFORE_SEGMENT)
    assert tree_bytes(fourth.features) == tree_bytes(first.features)
    fourth.set_clusters(2)  # experiment A itself
    assert fourth.repro("--pull") == ([], ["segment@one"])


def test_a_damaged_file_of_the_shared_cache_is_found_and_replaced(origin: Path, first: Clone) -> None:
    """The steps of docs/how-to/share-features.md, with hard links: the file is damaged in every clone."""
    other = clone(origin, "e", origin.parent / "shared")
    other.run("dvc", "config", "--local", "cache.type", "hardlink,symlink,copy")
    assert other.repro()[0] == []
    whole = tree_bytes(other.features)
    victim = other.features / "matching/c.0.0.0"
    victim.chmod(0o644)
    content = bytearray(victim.read_bytes())
    content[50] ^= 1
    victim.write_bytes(content)
    line = error_line(vidseg("cache", "verify", "data", cwd=other.folder, check=3))
    assert "1 of 6 stores cannot be used (first: data/extract/one/features.zarr)" in line
    other.run("find", str(origin.parent / "shared"), "-samefile", str(victim), "-delete")
    shutil.rmtree(other.features)
    assert other.repro()[0] == ["extract@one"]
    assert tree_bytes(other.features) == whole
    vidseg("cache", "verify", "data", cwd=other.folder)
