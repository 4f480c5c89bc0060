"""What grows with the number of frames and of videos: memory of the stages, time of DVC.

    python -m benchmarks.scale memory > memory.md
    python -m benchmarks.scale dvc > dvc.md
    python -m benchmarks.scale many --videos 343 --videos 1000 > many.md

`memory`: the largest resident memory of each stage's process, for clips of one noisy video at 128x128 with a tiny
network of SD 2.1's topology (Linux; most of it is what is imported). `dvc`: a fake VSPW of that many videos is
registered, what the pipeline would write is put in place (files as many as of 71 frames per video, the mean of VSPW
val, but short ones) and committed; then `dvc status` and `dvc repro` with nothing to do. Times are the best of three,
on the clock and of the CPU: on a shared machine only the second tells. DVC's floor is what the same commands take in
turn in a project with as many stages, each of which reads one tiny file and writes another one. `many`: the same once,
of more videos (of two frames each: DVC does not look at them), with the plan of a distributed run and its table.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from pipeline.media.video import write_video
from pipeline.stores.packed import copy_store
from pipeline.tables.pages import markdown
from stages.cluster.board import Board
from stages.cluster.plan import Chain, Plan
from stages.commands.dataset import SINGLE, TOGETHER
from stages.common import yaml_files
from stages.common.layout import item_keys
from tests.support import fake_datasets, tiny
from tests.support.concepts import write_references

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("ingest", "extract", "correspond", "segment", "upsample", "evaluate", "render", "summarize")
#: How many stages dvc.yaml has: those of each item, and those of the whole project.
STAGES_OF_ITEMS, STAGES_OF_ALL = 7, 2
#: Those of segments that a person shows, which `memory` alone looks at.
SHOWN = ("references", "learn", "track", "apply")
#: What the stages of one item leave, render's pictures and evaluate's scores excepted.
STORES = {
    "ingest": ("clip.zarr", "truth.zarr", "seed", "source", "cuts"),
    "extract": ("features.zarr", "latents.zarr"),
    "correspond": ("matches.zarr",),
    "segment": ("coarse.zarr", "context"),
    "upsample": ("labels.zarr",),
}
SIZE = 128
VSPW_FRAMES = 71
#: Large batches: a tiny network spends its time between passes.
PARAMS = {
    "ingest.size": "native",
    "diffusion.batch": "14",
    "segment.clusters": "2",
    "upsample.batch": "28",
    "evaluate.windows": "[8]",
    "render.labels": "false",  # as params.yaml has it
}
#: A short lesson, and guidance as in the paper but for its steps.
SHOWN_PARAMS = {
    "learn.size": "64",
    "learn.epochs": "3",
    "learn.phase1_iterations": "3",
    "guidance.lambda_track": "0.5",
    "guidance.lambda_reg": "8",
    "guidance.iterations": "2",
    "apply.frames": "all",
    "apply.timesteps": "[100, 99]",
}

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Used:
    """What a process took: seconds on the clock and of the CPU, largest resident memory in MB."""

    seconds: float
    cpu_seconds: float
    megabytes: float


@dataclass(frozen=True)
class Project:
    """A project in which all stages have run, as far as DVC can tell, and what registering and committing took."""

    folder: Path
    registered: Used
    committed: Used


def measure(command: Sequence[object], folder: Path) -> Used:
    """Run a command to its end; it must succeed."""
    started = time.monotonic()
    process = subprocess.Popen([*map(str, command)], cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    megabytes = 0.0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        megabytes = max(megabytes, _peak_megabytes(process.pid))
        time.sleep(0.02)
    seconds = time.monotonic() - started
    _, status, used = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {command}")
    return Used(seconds, used.ru_utime + used.ru_stime, megabytes)


def _peak_megabytes(process: int) -> float:
    """The kernel's high-water mark; that of `wait4` would begin with this process' own memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def environment() -> dict[str, str]:
    """One thread, no GPU, and this Python's `vidseg` and `dvc` first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "VIDSEG_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards, together with DVC's own state."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        os.environ["DVC_SITE_CACHE_DIR"] = f"{folder}/site"
        yield Path(folder)


def write_clip(folder: Path, frames: int) -> None:
    """clip.mp4 of a bright square that moves through noise, and label maps of all frames."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 90, (SIZE, SIZE + 64, 3), dtype=np.uint8)

    def picture(number: int) -> np.ndarray:
        shifted = noise[:, number % 64 : number % 64 + SIZE].copy()
        shifted[40:90, 20 + number % 40 : 60 + number % 40] += 120
        return shifted

    write_video(folder / "clip.mp4", (picture(number) for number in range(frames)), 25.0)
    (folder / "labels").mkdir()
    for number in range(frames):
        labels = np.zeros((SIZE, SIZE), np.uint8)
        labels[40:90, 20 + number % 40 : 60 + number % 40] = 1
        Image.fromarray(labels).save(folder / "labels" / f"{number:05d}.png")


def stage_commands(folder: Path, model: Path) -> dict[str, list[object]]:
    """The stages of one clip, by hand, below a folder."""
    sets = [word for name, value in PARAMS.items() for word in ("--set", f"{name}={value}")]
    common = ["--set", f"backbone.path={model}", *sets]
    at = {stage: folder / stage for stage in STAGES}
    clip, features = at["ingest"] / "clip.zarr", at["extract"] / "features.zarr"
    coarse, labels = at["segment"] / "coarse.zarr", at["upsample"] / "labels.zarr"
    matches, latents = at["correspond"] / "matches.zarr", at["extract"] / "latents.zarr"
    commands: dict[str, list[object]] = {
        "ingest": [folder / "clip.mp4", at["ingest"], "--ground-truth", folder / "labels", *common],
        "extract": [clip, at["extract"], *common],
        "correspond": [features, at["correspond"], *common],
        "segment": [features, matches, at["segment"], *common],
        "upsample": [clip, latents, coarse, at["upsample"], *common],
        "evaluate": [labels, at["ingest"] / "truth.zarr", at["evaluate"], *common],
        "render": [clip, labels, at["render"], "--features", features, "--coarse", coarse, *common],
        "summarize": [at["evaluate"], at["summarize"]],
    }
    return {stage: ["vidseg", stage, *words] for stage, words in commands.items()}


def shown_commands(folder: Path, model: Path) -> dict[str, list[object]]:
    """The stages of segments that a person shows, after those of `stage_commands`."""
    sets = [word for name, value in SHOWN_PARAMS.items() for word in ("--set", f"{name}={value}")]
    common = ["--set", f"backbone.path={model}", *sets]
    clip, latents = folder / "ingest/clip.zarr", folder / "extract/latents.zarr"
    refs, concept, tracks = folder / "references/refs.zarr", folder / "concept", folder / "track/tracks.zarr"
    commands: dict[str, list[object]] = {
        "references": [write_references(folder / "shown", 5), refs.parent],
        "learn": [refs, "-o", concept, *common],
        "track": [clip, tracks.parent, *common],
        "apply": [clip, latents, folder / "apply", "--concept", concept, "--tracks", tracks, *common],
    }
    return {stage: ["vidseg", stage, *words] for stage, words in commands.items()}


@app.command()
def memory(frames: Annotated[list[int] | None, typer.Option(help="lengths of the clips")] = None) -> None:
    """Largest resident memory per stage and clip length, in MB."""
    lengths = frames or [50, 500, 2000]
    found: dict[str, list[float]] = {stage: [] for stage in (*STAGES, *SHOWN)}
    with scratch() as folder:
        model = tiny.save_model(folder / "model")
        for length in lengths:
            (folder / str(length)).mkdir()
            write_clip(folder / str(length), length)
            commands = stage_commands(folder / str(length), model) | shown_commands(folder / str(length), model)
            for stage, command in commands.items():
                found[stage].append(measure(command, folder).megabytes)
                print(f"{stage}, {length} frames: {found[stage][-1]:.0f} MB", file=sys.stderr, flush=True)
    heads = ["stage", *(f"{length} frames" for length in lengths), "growth"]
    rows = [
        [stage, *(f"{value:.0f} MB" for value in values), f"{100 * (values[-1] / values[0] - 1):+.1f} %"]
        for stage, values in found.items()
    ]
    print(markdown(heads, rows))


@app.command()
def dvc(videos: Annotated[list[int] | None, typer.Option(help="numbers of registered videos")] = None) -> None:
    """CPU seconds of `dvc status` and `dvc repro` with nothing to do, best of three, beside DVC's floor."""
    rows = []
    with scratch() as folder:
        made = _one_video(folder / "one")
        for count in videos or [1, 40, 343]:
            project = _project(folder / str(count), count, made).folder
            items = item_keys(project / "videos.yaml")
            stages = STAGES_OF_ITEMS * len(items) + STAGES_OF_ALL
            floor = _floor(folder / f"floor-{count}", stages)
            row = [str(count), str(len(items)), str(stages), str(_files(project / "data"))]
            for command in (["dvc", "status"], ["dvc", "repro"]):
                turns = [(measure(command, project), measure(command, floor)) for _ in range(3)]
                seconds, cpu, least = (
                    min(values)
                    for values in zip(
                        *((own.seconds, own.cpu_seconds, its.cpu_seconds) for own, its in turns), strict=True
                    )
                )
                row += [f"{seconds:.1f} s", f"{cpu:.1f} s", f"{least:.1f} s", f"{cpu / least:.1f}"]
            rows.append(row)
            print(*row, file=sys.stderr, flush=True)
            for made_for_it in (project, project.with_name(f"vspw-{count}"), floor):
                shutil.rmtree(made_for_it)
    of_command = ["CPU", "floor", "ratio"]
    heads = ["videos", "items", "DVC stages", "files in data/", "`dvc status`", *of_command, "`dvc repro`", *of_command]
    print(markdown(heads, rows))


@app.command()
def many(videos: Annotated[list[int] | None, typer.Option(help="numbers of registered videos")] = None) -> None:
    """CPU seconds of DVC and of the plan of a distributed run, and what they leave, for many videos."""
    rows = []
    with scratch() as folder:
        made = _one_video(folder / "one")
        for count in videos or [343, 1000]:
            put = _project(folder / str(count), count, made, frames=2)
            project = put.folder
            for command in (
                ["init", "-q"],
                ["add", "-A"],
                ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"],
            ):
                measure(["git", *command], project)
            items = len(item_keys(project / "videos.yaml"))
            status = measure(["dvc", "status"], project)
            print(f"{count} videos, dvc status: {status}", file=sys.stderr, flush=True)
            repro = measure(["dvc", "repro"], project)
            plan = measure(["vidseg", "cluster", "run", "--dry-run"], project)
            rows.append(
                [
                    str(count), str(items), f"{_files(project / 'data')}",
                    f"{put.registered.cpu_seconds:.1f} s", f"{put.committed.cpu_seconds:.1f} s",
                    f"{status.cpu_seconds:.1f} s",
                    f"{repro.cpu_seconds:.1f} s", f"{repro.megabytes:.0f} MB", f"{plan.cpu_seconds:.1f} s",
                    f"{plan.megabytes:.0f} MB", f"{1000 * _draw(items):.0f} ms",
                    f"{(project / 'dvc.lock').stat().st_size / 1000:.0f} kB",
                ]
            )  # fmt: skip
            print(*rows[-1], file=sys.stderr, flush=True)
            for made_for_it in (project, project.with_name(f"vspw-{count}")):
                shutil.rmtree(made_for_it)
    heads = ["videos", "items", "files in data/", "register", "`dvc commit`", "`dvc status`", "`dvc repro`", "memory"]
    heads += ["plan", "memory", "table"]
    print(markdown([*heads, "dvc.lock"], rows))


def _files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())


def _draw(items: int) -> float:
    """CPU seconds to draw the table of a distributed run once, on a screen that shows all items."""
    from rich.console import Console

    chains = tuple(Chain(f"item-{number}", ("render",), STAGES[:-1], ()) for number in range(items))
    board = Board(Plan(Path(), "", Path(), Path(), (), chains))
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    started = time.process_time()
    for _ in range(10):
        console.print(board.table(items))
    return (time.process_time() - started) / 10


def _floor(folder: Path, stages: int) -> Path:
    """A project of that many stages that have run, each with one tiny file in and one out."""
    folder.mkdir()
    pipeline = {}
    for number in range(stages):
        pipeline[f"stage-{number}"] = {"cmd": "true", "deps": [f"in/{number}"], "outs": [f"out/{number}"]}
        for place in ("in", "out"):
            (folder / place).mkdir(exist_ok=True)
            (folder / place / str(number)).write_text(f"{number}\n")
    (folder / "dvc.yaml").write_text(json.dumps({"stages": pipeline}))
    measure(["dvc", "init", "--no-scm", "-q"], folder)
    measure(["dvc", "commit", "-f", "-q"], folder)
    return folder


def _one_video(folder: Path) -> Path:
    """All stages of one clip, once: what is then put in place for each video."""
    folder.mkdir()
    write_clip(folder, VSPW_FRAMES)
    for command in stage_commands(folder, tiny.save_model(folder / "model")).values():
        measure(command, folder)
    for stage in STAGES[:-1]:  # DVC asks for the files, not for their bytes
        for file in (folder / stage).rglob("*.*"):
            if file.is_file() and file.name != "zarr.json":
                file.write_bytes(file.read_bytes()[:1000])
    for stage, names in STORES.items():
        for name in names:
            copy_store(folder / stage / name, folder / "packed" / stage / name / "one", folder / "copy")
    return folder


def _project(folder: Path, count: int, made: Path, frames: int = VSPW_FRAMES) -> Project:
    folder.mkdir()
    for name in ("dvc.yaml", "versions.yaml", "params.yaml", "backbone.lock", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "inputs/none", folder / "inputs/none")
    (folder / "videos.yaml").write_text("items: {}\n")
    data_set = folder.with_name(f"vspw-{count}")  # outside, as data sets are: DVC walks all of a project
    fake_datasets.vspw(data_set, count, frames)
    together = ["--per-item", max(TOGETHER, math.ceil(count / SINGLE))] if count > SINGLE else []
    measure(["dvc", "init", "--no-scm", "-q"], folder)
    registered = measure(["vidseg", "dataset", "register", data_set, "--dataset", "vspw", *together], folder)
    measure(["vidseg", "sample", "data/sample"], folder)
    print(f"{count} videos registered: {registered}", file=sys.stderr, flush=True)
    for key, entries in yaml_files.read(folder / "videos.yaml", "")["items"].items():
        for name in entries[0].get("videos", [""]):
            _put(made, folder / "data", key, name)
    (folder / "plots").mkdir()
    for source in (made / "summarize").rglob("*.*"):
        shutil.copy(source, folder / source.relative_to(made / "summarize"))
    committed = measure(["dvc", "commit", "-f", "-q"], folder)
    print(f"{count} videos committed: {committed}", file=sys.stderr, flush=True)
    return Project(folder, registered, committed)


def _put(made: Path, data: Path, key: str, video: str) -> None:
    for stage, names in STORES.items():
        for name in names:
            store, place = made / "packed" / stage / name / "one", data / stage / key / name / video
            if not video:  # an item of one video
                shutil.copytree(made / stage / name, place)
            elif store.is_dir():
                shutil.copytree(store, place)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(store, place)
    shutil.copytree(made / "render", data / "render" / key / video)
    scores = data / "evaluate" / key / "scores.json"
    scores.parent.mkdir(parents=True, exist_ok=True)
    scores.write_text(json.dumps({"item": key}))


if __name__ == "__main__":
    app()
