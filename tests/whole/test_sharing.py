"""Two clones, two experiments: features are computed once, whether the clones share a disk or only a remote.

The remote is an SSH server where one is installed, and what the page of docs says is run line by line.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import sshd, tiny, yaml
from tests.support.commands import ENVIRONMENT, error_line, tree_bytes, vidseg, write_frames
from tests.support.places import ROOT

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
PAGE = ROOT / "docs/how-to/share-features.md"
#: The remote's address on that page.
DOCUMENTED = "ssh://host/path"
STAGES = ("ingest", "extract", "correspond", "segment")
BEFORE_SEGMENT = ["correspond@one", "extract@one", "ingest@one"]


@dataclass(frozen=True)
class Clone:
    """A git clone of the project.

    Attributes:
        url: of the team's remote.
        home: of a user who may log in there.
    """

    folder: Path
    url: str
    home: Path

    def run(self, *command: str) -> str:
        environment = {
            **ENVIRONMENT,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / f"{self.folder.name}-site"),
            "HOME": str(self.home),
        }
        result = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    def follow(self, block: int) -> str:
        """Run the commands of a block of the page's section on remotes; returns what they print.

        The project is one of the stages up to `segment`, for the sake of time.
        """
        section = PAGE.read_text().partition("## Between machines\n")[2].partition("\n## ")[0]
        printed = ""
        for line in re.findall(r"```\n(.*?)```", section, re.DOTALL)[block].splitlines():
            words = shlex.split(line.replace(DOCUMENTED, self.url), comments=True)
            if words[:1] == ["dvc"]:
                printed += self.run(*words, *(STAGES if words[1] in ("pull", "repro") else ()))
        return printed

    def set_clusters(self, clusters: int) -> None:
        params = yaml.safe_load((self.folder / "params.yaml").read_text())
        params["segment"]["clusters"] = clusters
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))

    def repro(self) -> tuple[list[str], list[str]]:
        """`dvc repro segment`: the stages that ran, and those that came from the cache."""
        return ran_and_cached(self.run("dvc", "repro", "segment"))

    @property
    def features(self) -> Path:
        return self.folder / "data/extract/one/features.zarr"


def ran_and_cached(printed: str) -> tuple[list[str], list[str]]:
    """What `dvc repro` says that it ran, and what it restored."""
    cached = re.findall(r"Stage '([^']+)' is cached - skipping run", printed)
    return sorted(re.findall(r"Running stage '([^']+)'", printed)), sorted(cached)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A git repository of one video and a tiny model; a remote that an SSH server has, or a folder without one."""
    team = tmp_path_factory.mktemp("team")
    folder, remote, home = team / "origin", team / "remote", team / "home"
    with ExitStack() as stack:
        url = str(remote)
        home.mkdir()
        if sshd.is_installed():
            home = stack.enter_context(sshd.running(home)).home
            url = f"ssh://host{remote}"
        project = Clone(folder, url, home)
        make_project(project)
        yield project


def make_project(project: Clone) -> None:
    """The team's project, committed."""
    folder = project.folder
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
    project.run("git", "init", "-q")
    project.run("dvc", "init", "-q")
    project.run("dvc", "config", "core.analytics", "false")
    project.run("vidseg", "backbone", "lock", "--params", "params.yaml")
    (folder / ".gitignore").write_text("/data/\n")
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "project")


def clone(origin: Clone, name: str, cache: str) -> Clone:
    made = replace(origin, folder=origin.folder.parent / name)
    subprocess.run(["git", "clone", "-q", origin.folder, made.folder], check=True)
    made.run("dvc", "cache", "dir", "--local", str(made.folder.parent / cache))
    return made


@pytest.fixture(scope="module")
def first(origin: Clone) -> Clone:
    """Experiment A, run through `segment`, in a clone that uses a shared cache and pushes to a remote."""
    made = clone(origin, "a", "shared")
    assert made.repro() == (sorted([*BEFORE_SEGMENT, "segment@one"]), [])
    made.follow(0)
    return made


def test_a_clone_on_the_same_disk_reuses_features(origin: Clone, first: Clone) -> None:
    second = clone(origin, "b", "shared")
    second.set_clusters(3)
    assert second.repro() == (["segment@one"], BEFORE_SEGMENT)
    assert tree_bytes(second.features) == tree_bytes(first.features)


def test_a_clone_on_another_machine_reuses_features(origin: Clone, first: Clone) -> None:
    """With the dvc.lock that experiment A's author committed: what it names is pulled, and only `segment` is new."""
    third = clone(origin, "c", "own cache")
    third.run("dvc", "remote", "add", "-d", "team", origin.url)
    shutil.copy(first.folder / "dvc.lock", third.folder)
    assert ran_and_cached(third.follow(1)) == ([], [])
    third.set_clusters(4)
    assert third.repro() == (["segment@one"], [])
    assert tree_bytes(third.features) == tree_bytes(first.features)


def test_a_clone_on_another_machine_reuses_features_without_a_lock(origin: Clone, first: Clone) -> None:
    """Without dvc.lock the records of the run-cache tell what A computed, and `repro --pull` fetches it."""
    fourth = clone(origin, "d", "another cache")
    fourth.run("dvc", "remote", "add", "-d", "team", origin.url)
    fourth.set_clusters(4)
    assert ran_and_cached(fourth.follow(2)) == (["segment@one"], BEFORE_SEGMENT)
    assert tree_bytes(fourth.features) == tree_bytes(first.features)
    fourth.set_clusters(2)  # experiment A itself
    assert ran_and_cached(fourth.follow(2)) == ([], ["segment@one"])


def test_a_damaged_file_of_the_shared_cache_is_found_and_replaced(origin: Clone, first: Clone) -> None:
    """The steps of docs/how-to/share-features.md, with hard links: the file is damaged in every clone."""
    other = clone(origin, "e", "shared")
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
    other.run("find", "../shared", "-samefile", str(victim), "-delete")
    shutil.rmtree(other.features)
    assert other.repro()[0] == ["extract@one"]
    assert tree_bytes(other.features) == whole
    vidseg("cache", "verify", "data", cwd=other.folder)
