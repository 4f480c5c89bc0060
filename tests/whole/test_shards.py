"""`--shards`: several processes write one store on a shared disk, and the last one completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.stores.schemas import LABELS, ArraySpec
from pipeline.stores.shard_claims import claimed
from pipeline.stores.writer import StoreWriter
from stages.common.layout import parse_shards
from tests.support.commands import ENVIRONMENT, tree_bytes, vidseg
from tests.support.noise_clip import make_clip, make_coarse

SHARDS = 5


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A clip of five frames with its features, latents, coarse labels and labels, one frame per shard."""
    folder = tmp_path_factory.mktemp("whole")
    make_clip(folder / "clip.zarr")
    vidseg(*words("extract", folder, folder, tiny_model))
    make_coarse(folder / "coarse.zarr", folder / "latents.zarr", shard=1)
    vidseg(*words("upsample", folder, folder, tiny_model))
    return folder


def words(stage: str, stores: Path, out: Path, model: Path, *more: str) -> list[str]:
    inputs = {"extract": ["clip.zarr"], "upsample": ["clip.zarr", "latents.zarr", "coarse.zarr"]}[stage]
    chosen = ("extract.shard=1", "diffusion.batch=1", "upsample.method=modulation", f"backbone.path={model}")
    sets = [word for text in chosen for word in ("--set", text)]
    return [stage, *(str(stores / name) for name in inputs), str(out), *sets, *more]


def start(*arguments: str, scratch: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stages.main", *arguments]
    return subprocess.Popen(command, env={**ENVIRONMENT, "VIDSEG_SCRATCH": str(scratch)}, text=True)


def assert_same(stage: str, out: Path, whole: Path, scratch: Path) -> None:
    for name in {"extract": ["features.zarr", "latents.zarr"], "upsample": ["labels.zarr"]}[stage]:
        assert tree_bytes(out / name) == tree_bytes(whole / name)
    assert not list(scratch.iterdir()) and not (out / "tmp").exists()


@pytest.mark.parametrize(
    ("stage", "ranges"),
    [
        pytest.param("extract", ["0:3", "2:5"], id="extract-overlapping"),
        pytest.param("upsample", [":", ":"], id="upsample-everything-twice"),
    ],
)
def test_processes_at_the_same_time_make_the_same_bytes(
    tmp_path: Path, stores: Path, tiny_model: Path, stage: str, ranges: list[str]
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    out = tmp_path / "out"
    running = [start(*words(stage, stores, out, tiny_model, "--shards", part), scratch=scratch) for part in ranges]
    assert [process.wait() for process in running] == [0, 0]
    assert_same(stage, out, stores, scratch)


def test_what_a_killed_process_left_is_completed_by_another(
    tmp_path: Path, stores: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    out = tmp_path / "out"
    process = start(*words("extract", stores, out, tiny_model, "--shards", "0:4"), scratch=scratch)
    while not list(scratch.glob("*/latents.zarr/latents/c.0.0.0.0")):
        assert process.poll() is None, "extract ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    monkeypatch.setenv("VIDSEG_SCRATCH", str(scratch))
    second = vidseg(*words("extract", stores, out, tiny_model, "--shards", "4:"))
    assert "shards are still to be written" in second.stderr
    assert not (out / "features.zarr").exists()
    vidseg(*words("extract", stores, out, tiny_model, "--shards", ":4"))
    assert_same("extract", out, stores, scratch)


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder in memory."""
    import tempfile

    if not Path("/dev/shm").is_dir():
        pytest.skip("/dev/shm is absent")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_store_from_another_file_system_is_copied(
    tmp_path: Path, stores: Path, tiny_model: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDSEG_SCRATCH", str(other_disk))
    vidseg(*words("upsample", stores, tmp_path, tiny_model, "--set", "upsample.method=nearest"))
    vidseg(*words("upsample", stores, tmp_path, tiny_model))  # replaces what the first one made
    assert_same("upsample", tmp_path, stores, other_disk)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.zarr"]


def test_a_shard_that_another_process_writes_is_left_to_it(tmp_path: Path) -> None:
    """And is waited for, and taken over if the other one gives up."""
    specs = {"labels": ArraySpec((3, 4, 4), "uint8", 1)}
    mine, other = (
        StoreWriter(tmp_path / "labels.zarr", tmp_path / "tmp", LABELS, "m", specs, params={}) for _ in range(2)
    )
    with other.claim(range(0, 1), wait=False) as theirs:
        assert theirs
        shards = claimed([mine])
        assert [next(shards), next(shards)] == [range(1, 2), range(2, 3)]
    assert list(shards) == [range(0, 1), range(1, 2), range(2, 3)], "nobody has written any"
    assert not (tmp_path / "tmp").exists()


@pytest.mark.parametrize(
    ("text", "shards"), [("3:7", slice(3, 7)), (":2", slice(2)), ("4:", slice(4, None)), (":", slice(None))]
)
def test_ranges(text: str, shards: slice) -> None:
    assert list(range(9))[parse_shards(text)] == list(range(9))[shards]


@pytest.mark.parametrize("text", ["", "3", "7:3", "3:3", "-2:4", "a:b", "1:2:3", ":0"])
def test_refused_ranges(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shards(: nothing is in| must be START:STOP like 0:28 \(0 to 27\))"):
        parse_shards(text)
