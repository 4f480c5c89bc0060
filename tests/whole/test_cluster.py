"""Distributed runs on a LocalCluster of two worker processes: the results are those of a run in one place."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support.cluster_project import Checkout, cluster_command, quick_project, real_project, write_video
from tests.support.commands import tree_bytes, vidseg, write_frames, write_labels
from tests.support.places import ROOT

KEYS = ["a", "b", "c", "d", "e", "slow"]


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
    project = quick_project(tmp_path / "project", site, KEYS)
    output = project.cluster("--workers", "2")
    ran = project.ran()
    assert sorted(stage for stage, _ in ran) == sorted(
        f"{stage}@{key}" for stage in ("extract", "render") for key in KEYS
    )
    assert len({place for _, place in ran}) == 2, "both workers had something to do"
    for key in KEYS:
        for line in ("extract running", "extract ran", "render running", "render ran"):
            assert f"{key}: {line}\n" in output
    assert "6 items: 12 ran" in output and "`dvc status` is clean" in output and "Traceback" not in output
    assert results(project) == serial
    assert not list((project.folder / ".dvc/tmp/cluster/clones").iterdir())

    other = project.clone(tmp_path / "other", site)
    for key in KEYS:  # videos that git does not know lie where videos.yaml says, here too
        write_video(other.folder, key)
    targets = [f"render@{key}" for key in KEYS[::2]]
    assert "3 items: 6 restored" in other.cluster(*targets)
    assert other.ran() == []
    assert [name for name in tree_bytes(other.folder / "data") if name.startswith("render")] == [
        f"render/{key}/out" for key in KEYS[::2]
    ]


def test_an_item_of_a_killed_worker_is_run_by_another(tmp_path: Path, site: Path, serial: dict[str, bytes]) -> None:
    project = quick_project(tmp_path / "project", site, KEYS)
    hold = Path(f"{project.ran_file}.hold")
    hold.touch()
    process = project.start(*cluster_command("--workers", "2"))

    def slow_places() -> list[str]:
        return [place for stage, place in project.ran() if stage == "extract@slow"]

    def wait_for(count: int) -> str:
        while len(slow_places()) < count:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        return slow_places()[count - 1]

    os.kill(int(wait_for(1).rpartition("-")[2]), signal.SIGKILL)
    wait_for(2)
    hold.unlink()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert len(set(slow_places())) == 2
    assert re.search(r"^slow: its worker tcp://\S+ is lost$", output, re.MULTILINE)
    assert "6 items: 12 ran\n" in output, "what the lost worker had finished is not run again"
    assert results(project) == serial


def test_two_workers_with_the_same_item_leave_one_result(tmp_path: Path, site: Path) -> None:
    """A worker is taken for lost and comes back: both write to the shared cache at the same time."""
    project = quick_project(tmp_path / "project", site, KEYS)
    hold = Path(f"{project.ran_file}.hold")
    hold.touch()
    runs = [project.start(*cluster_command("render@slow")) for _ in range(2)]
    while len(project.ran()) < 2:
        assert all(run.poll() is None for run in runs)
        time.sleep(0.05)
    hold.unlink()
    for run in runs:
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
    assert (project.folder / "data/render/slow/out").read_text() == "frame of slow\nextract\nrender\n"
    assert {stage for stage, _ in project.ran()} == {"extract@slow", "render@slow"}


def test_an_item_that_fails_does_not_stop_the_others(tmp_path: Path, site: Path) -> None:
    project = quick_project(tmp_path / "project", site, ["a", "broken", "c"])
    output = project.cluster("--workers", "2", check=3)
    assert "1 of 3 items failed: broken: error: videos/broken: frame 3 is damaged" in output
    assert [stage for stage, _ in project.ran()].count("extract@broken") == 1, "bad input is not tried again"
    assert sorted(path.name for path in (project.folder / "data/render").iterdir()) == ["a", "c"]
    assert "frame 3 is damaged" in (project.folder / ".dvc/tmp/cluster/logs/broken.log").read_text()


def test_an_item_that_kills_every_worker_is_given_up(tmp_path: Path, site: Path) -> None:
    project = quick_project(tmp_path / "project", site, ["a", "deadly"])
    output = project.cluster("--retries", "1", check=3)
    assert "1 of 2 items failed: deadly: 2 workers were lost while they ran it (logs: " in output
    assert [stage for stage, _ in project.ran()].count("extract@deadly") == 2
    assert (project.folder / "data/render/a/out").is_file()


def test_an_interrupted_run_stops_its_stages_and_can_be_continued(tmp_path: Path, site: Path) -> None:
    """Ctrl-C on a terminal: all processes of the run get the signal."""
    project = quick_project(tmp_path / "project", site, ["a", "slow"])
    Path(f"{project.ran_file}.hold").touch()
    process = project.start(*cluster_command("--workers", "2"), terminal=True)
    while not {"extract@slow", "render@a"} <= {stage for stage, _ in project.ran()}:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert output.endswith("interrupted; run the same command again to continue\n") and "Traceback" not in output
    assert not list((project.folder / ".dvc/tmp/cluster/clones").iterdir())
    running = [process.info["cwd"] or "" for process in psutil.process_iter(["cwd"])]
    assert not [folder for folder in running if folder.startswith(str(tmp_path))]
    Path(f"{project.ran_file}.hold").unlink()
    assert "2 items: 2 ran, 2 restored" in project.cluster("--workers", "2")


SBATCH = """#!/bin/sh
if [ -e "$0.refuses" ]; then echo "sbatch: error: invalid account" >&2; exit 1; fi
sh "$1" > "$0.log" 2>&1 &
echo $! >> "$0.jobs"
echo "Submitted batch job $!"
"""


def test_jobs_of_slurm(tmp_path: Path, site: Path) -> None:
    """The generated job script, run here by what stands for sbatch and scancel."""
    project = quick_project(tmp_path / "project", site, ["a", "b"])
    for name, content in {"sbatch": SBATCH, "scancel": '#!/bin/sh\nkill "$1"\n'}.items():
        (site / name).write_text(content)
        (site / name).chmod(0o755)
    project.environment["PATH"] = f"{site}{os.pathsep}{project.environment['PATH']}"
    arguments = ("--scheduler", "slurm", "--memory", "2GB", "--workers", "2", "--clones", str(tmp_path / "disk"))
    (site / "sbatch.refuses").touch()
    output = project.cluster(*arguments, check=5)
    assert "error: --scheduler slurm: `sbatch` takes no job: sbatch: error: invalid account" in output
    assert "Traceback" not in output
    (site / "sbatch.refuses").unlink()
    output = project.cluster(*arguments)
    assert "2 jobs are submitted; items begin as soon as one of them runs" in output
    assert "2 items: 4 ran" in output and "Traceback" not in output
    assert len((site / "sbatch.jobs").read_text().split()) == 2
    assert (project.folder / "data/render/b/out").is_file()
    assert not list((tmp_path / "disk").iterdir())


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
