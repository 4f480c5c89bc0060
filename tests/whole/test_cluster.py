"""Distributed runs on a LocalCluster of two worker processes: the results are those of a run in one place."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support.cluster_project import Checkout, cluster_command, quick_project, real_project, write_video
from tests.support.commands import tree_bytes, vidseg, write_frames, write_labels
from tests.support.places import ROOT
from tests.support.waiting import output_of, wait_until

KEYS = ["a", "b", "c", "slow"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for what belongs to a machine: DVC's state, notes of what ran."""
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def results(project: Checkout) -> dict[str, bytes]:
    return tree_bytes(project.folder / "data") | {"metrics.txt": (project.folder / "metrics.txt").read_bytes()}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a plain `dvc repro` makes of the same project, with a cache of its own."""
    folder = tmp_path_factory.mktemp("serial")
    alone = quick_project(folder / "project", folder, KEYS)
    alone.run("dvc", "repro")
    return results(alone)


def test_results_are_those_of_one_machine_and_are_restored_elsewhere(
    tmp_path: Path, site: Path, serial: dict[str, bytes]
) -> None:
    """One item is run by another run as well, as when a worker is taken for lost: both write to the cache at once."""
    project = quick_project(tmp_path / "project", site, KEYS)
    hold = Path(f"{project.ran_file}.hold")
    hold.touch()
    run = project.start(*cluster_command("--workers", "2"))
    twin = project.start(*cluster_command("render@slow"))
    wait_until(lambda: [stage for stage, _ in project.ran()].count("extract@slow") == 2, run, twin)
    hold.unlink()
    output = output_of(run)
    assert "1 items: " in output_of(twin)
    ran = project.ran()
    assert {stage for stage, _ in ran} == {f"{stage}@{key}" for stage in ("extract", "render") for key in KEYS}
    assert max(Counter(stage for stage, _ in ran if not stage.endswith("slow")).values()) == 1
    assert len({place for _, place in ran}) == 3, "both workers had something to do"
    for key in KEYS[:-1]:
        for line in ("extract running", "extract ran", "render running", "render ran"):
            assert f"{key}: {line}\n" in output
    assert "4 items: " in output and "`dvc status` is clean" in output and "Traceback" not in output
    assert results(project) == serial
    assert not list((project.folder / ".dvc/tmp/cluster/clones").iterdir())

    other = project.clone(tmp_path / "other", site)
    for key in KEYS:  # videos that git does not know lie where videos.yaml says, here too
        write_video(other.folder, key)
    targets = [f"render@{key}" for key in KEYS[::2]]
    assert "2 items: 4 restored" in other.cluster(*targets)
    assert other.ran() == []
    assert [name for name in tree_bytes(other.folder / "data") if name.startswith("render")] == [
        f"render/{key}/out" for key in KEYS[::2]
    ]


@dataclass(frozen=True)
class Troubled:
    """A run of four items that has ended."""

    project: Checkout
    output: str

    def runs(self, stage: str) -> list[str]:
        """Where a stage ran, each time."""
        return [place for name, place in self.project.ran() if name == stage]


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Troubled:
    """The worker of `slow` is killed in it, `broken` is bad input; `a` and `b` are as they should be."""
    folder = tmp_path_factory.mktemp("troubled")
    (folder / "site").mkdir()
    project = quick_project(folder / "project", folder / "site", ["a", "b", "broken", "slow"])
    hold = Path(f"{project.ran_file}.hold")
    hold.touch()
    run = project.start(*cluster_command("--workers", "2"))
    known = Troubled(project, "")
    wait_until(lambda: len(known.runs("extract@slow")) == 1, run)
    os.kill(int(known.runs("extract@slow")[0].rpartition("-")[2]), signal.SIGKILL)
    wait_until(lambda: len(known.runs("extract@slow")) == 2, run)
    hold.unlink()
    return Troubled(project, output_of(run, check=3))


def test_an_item_of_a_killed_worker_is_run_by_another(troubled: Troubled, serial: dict[str, bytes]) -> None:
    assert len(set(troubled.runs("extract@slow"))) == 2
    assert re.search(r"^slow: its worker tcp://\S+ is lost$", troubled.output, re.MULTILINE)
    counts = Counter(stage for stage, _ in troubled.project.ran() if "broken" not in stage and stage != "extract@slow")
    assert set(counts.values()) == {1}, "what the lost worker had finished is not run again"
    made = tree_bytes(troubled.project.folder / "data/render")
    assert made == {f"{key}/out": serial[f"render/{key}/out"] for key in ("a", "b", "slow")}


def test_an_item_that_fails_does_not_stop_the_others(troubled: Troubled) -> None:
    assert "1 of 4 items failed: broken: error: videos/broken: frame 3 is damaged" in troubled.output
    assert len(troubled.runs("extract@broken")) == 1, "bad input is not tried again"
    assert "frame 3 is damaged" in (troubled.project.folder / ".dvc/tmp/cluster/logs/broken.log").read_text()


def test_an_item_that_kills_every_worker_is_given_up(tmp_path: Path, site: Path) -> None:
    project = quick_project(tmp_path / "project", site, ["a", "deadly"])
    output = project.cluster("--retries", "1", check=5)
    assert "1 of 2 items failed: deadly: 2 workers were lost while they ran it (logs: " in output
    assert [stage for stage, _ in project.ran()].count("extract@deadly") == 2
    assert (project.folder / "data/render/a/out").is_file()


def test_an_interrupted_run_stops_its_stages_and_can_be_continued(tmp_path: Path, site: Path) -> None:
    """Ctrl-C on a terminal: all processes of the run get the signal."""
    project = quick_project(tmp_path / "project", site, ["a", "slow"])
    Path(f"{project.ran_file}.hold").touch()
    process = project.start(*cluster_command("--workers", "2"), terminal=True)
    wait_until(lambda: {"extract@slow", "render@a"} <= {stage for stage, _ in project.ran()}, process)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    output = output_of(process, check=130)
    assert output.endswith("interrupted; run the same command again to continue\n") and "Traceback" not in output
    assert not list((project.folder / ".dvc/tmp/cluster/clones").iterdir())
    running = [process.info["cwd"] or "" for process in psutil.process_iter(["cwd"])]
    assert not [folder for folder in running if folder.startswith(str(tmp_path))]
    Path(f"{project.ran_file}.hold").unlink()
    assert "2 items: 2 ran, 2 restored" in project.cluster("--workers", "2")


@pytest.mark.slow
def test_the_real_stages_make_the_bytes_of_one_thread_in_one_place(
    tmp_path: Path, site: Path, tiny_model: Path
) -> None:
    """Videos in git, ignored by git, and outside of the project; all stores, scores and pictures."""
    folder = tmp_path / "project"
    places = {
        "a": "clips/a", "b": "clips/b", "c": "videos/c", "d": str(folder / "videos/d"), "e": str(tmp_path / "e"),
        "f": str(tmp_path / "f"),
    }  # fmt: skip
    for number, place in enumerate(places.values()):
        frames = np.random.default_rng(number).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
        frames[:, :, 32:] //= 4
        write_frames(folder / place, frames)
    labels = np.zeros((3, 64, 64), np.uint8)
    labels[:, :, 32:] = 1
    truth = write_labels(tmp_path / "truth", labels)
    project = real_project(folder, site, ROOT, tiny_model, places, truth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDSEG_DEVICE", "cpu")
        for stage in ("ingest", "extract", "correspond", "segment", "upsample", "evaluate", "render"):
            for key in places:
                vidseg(stage, "--item", key, "--params", "params.yaml", cwd=folder)
        vidseg("summarize", "data/evaluate", ".", "--items", "videos.yaml", cwd=folder)
    alone = tree_bytes(folder / "data")
    metrics = (folder / "metrics.json").read_bytes()
    (folder / "data").rename(tmp_path / "alone")

    output = project.cluster("evaluate", "render", "summarize", "--workers", "2")
    assert "6 items: 42 ran" in output and "had to run here" not in output
    together = tree_bytes(folder / "data")
    assert together.keys() == alone.keys()
    assert [name for name in alone if together[name] != alone[name]] == []
    assert (folder / "metrics.json").read_bytes() == metrics
