"""Stores in one file, as the videos of an item of several have them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import DataError
from pipeline.stores import shard_claims
from pipeline.stores.inventory import COMPLETE, check_shards, describe, find_stores
from pipeline.stores.packed import copy_store, pack
from pipeline.stores.schemas import LATENTS, MATCHES, ArraySpec, Schema
from pipeline.stores.store import is_current, open_store
from pipeline.stores.writer import StoreWriter
from tests.support.commands import ENVIRONMENT
from tests.support.places import ROOT


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((5, 2, 3)).astype(np.float32)


def write(path: Path, seed: int = 0, schema: Schema = LATENTS) -> Path:
    specs = {"latents": ArraySpec((5, 2, 3), "float32", shard=2)}
    made = StoreWriter(path, path.parent / "tmp", schema, f"seed {seed}", specs, params={"seed": seed})
    made.write("latents", 0, values(seed))
    return made.commit()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write(tmp_path / "latents.zarr" / "video")


def test_a_store_among_others_is_one_file_that_any_zarr_reads(store: Path) -> None:
    assert [path.name for path in store.parent.iterdir()] == ["video"] and store.is_file()
    group = zarr.open_group(zarr.storage.ZipStore(store, mode="r"), mode="r")
    assert group.attrs["complete"] is True
    np.testing.assert_array_equal(group["latents"][:], values())


@pytest.mark.parametrize("span", [(0, 5), (1, 2), (3, 4), (4, 5), (2, 4)])
def test_it_reads_as_the_folder_does(store: Path, span: tuple[int, int]) -> None:
    opened = open_store(store, LATENTS)
    assert opened.fingerprint == "seed 0" and opened.params == {"seed": 0}
    np.testing.assert_array_equal(opened.read("latents", *span), values()[slice(*span)])


def test_equal_stores_are_equal_bytes(tmp_path: Path, store: Path) -> None:
    again = write(tmp_path / "again.zarr" / "video")
    assert again.read_bytes() == store.read_bytes()
    with zipfile.ZipFile(store) as packed:
        assert packed.testzip() is None
        assert {entry.date_time[0] for entry in packed.infolist()} == {1980}


def test_what_is_open_stays_when_another_takes_its_place(store: Path) -> None:
    opened = open_store(store, LATENTS)
    write(store, seed=1)
    np.testing.assert_array_equal(opened.read("latents"), values())
    np.testing.assert_array_equal(open_store(store, LATENTS).read("latents"), values(1))


def test_a_folder_of_an_earlier_version_is_read_and_replaced(tmp_path: Path, store: Path) -> None:
    with zipfile.ZipFile(store) as packed:
        packed.extractall(tmp_path / "folder")
    store.unlink()
    shutil.move(tmp_path / "folder", store)
    assert is_current(store, LATENTS, "seed 0")
    write(store, seed=1)
    assert store.is_file() and is_current(store, LATENTS, "seed 1")
    assert [path.name for path in store.parent.iterdir()] == ["video"]


def flip(store: Path) -> None:
    """Change a byte of the second shard."""
    with zipfile.ZipFile(store) as packed:
        at = packed.getinfo("latents/c.1.0.0").header_offset
    content = bytearray(store.read_bytes())
    content[at + 60] ^= 255
    store.write_bytes(bytes(content))


def without(name: str):  # type: ignore[no-untyped-def]
    """What packs a store anew without one of its files."""

    def damage(store: Path) -> None:
        folder = store.parent.parent / "folder"
        with zipfile.ZipFile(store) as packed:
            packed.extractall(folder)
        (folder / name).unlink()
        pack(folder, store, store.parent.parent / "tmp")

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda store: store.write_bytes(store.read_bytes()[:-30]),
            "video: not a Zarr store .* delete it and re-run `vidseg extract`",
        ),
        (lambda store: store.write_bytes(b""), "video: not a Zarr store"),
        (without("zarr.json"), "video: not a Zarr store"),
        (without("latents/c.1.0.0"), r"'latents' lacks 1 of its shards \(first: 1\).*vidseg extract"),
        (flip, r"'latents' is damaged in shard 1 \(c\.1\.0\.0: .*re-run `vidseg extract`"),
    ],
)
def test_damage_is_named(store: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(store)
    with pytest.raises(DataError, match=message):
        open_store(store, LATENTS).read("latents")
    assert find_stores(store.parent) == [store]
    entry = describe(store)
    assert entry.state != COMPLETE or any(shard.problem for shard in check_shards(store))


def test_the_inventory_knows_it(tmp_path: Path, store: Path) -> None:
    (store.parent / ".other.partial").write_bytes(b"")  # of a killed writer
    assert find_stores(tmp_path) == find_stores(store) == [store]
    entry = describe(store)
    assert (entry.state, entry.frames, entry.shards) == (COMPLETE, 5, 3)
    assert entry.stored_bytes == store.stat().st_size
    assert [shard.problem for shard in check_shards(store)] == [None] * 3


def test_a_finished_store_lacks_nothing_while_the_next_one_is_packed(tmp_path: Path) -> None:
    """A kill between the two must not ask for all frames again: the scratch of the first is gone."""
    specs = {"latents": ArraySpec((5, 2, 3), "float32", shard=2)}
    first, second = (
        StoreWriter(tmp_path / name / "video", tmp_path / "tmp" / name, LATENTS, "mark", specs, params={})
        for name in ("latents.zarr", "others.zarr")
    )
    for writer in (first, second):
        writer.write("latents", 0, values())
    assert shard_claims.lacking([first, second]) == []
    first.commit()
    assert shard_claims.lacking([first, second]) == []
    second.commit()
    assert shard_claims.lacking([first, second]) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.stores.test_packed import write

def die(event, details):
    if event == "os.rename" and str(details[1]) == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
write(Path(sys.argv[1]))
"""


def test_what_a_killed_packer_leaves_lies_in_scratch_and_goes_with_the_next(tmp_path: Path) -> None:
    """DVC would look at what lies beside the store, and nobody else would remove it."""
    path = tmp_path / "latents.zarr" / "video.v2"
    ended = subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT, env=ENVIRONMENT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [left.name for left in path.parent.rglob("video*")] == ["video.v2"]
    assert [left.name for left in path.parent.iterdir()] == ["tmp"]
    assert is_current(write(path), LATENTS, "seed 0")
    assert [left.name for left in path.parent.iterdir()] == ["video.v2"]


def test_scratch_on_another_disk(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written once, on the disk where it is to lie."""
    written, copyfile = [], shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: written.append(target) or copyfile(source, target))
    disk = Path("/dev/shm")
    if not disk.is_dir() or disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    with tempfile.TemporaryDirectory(dir=disk) as scratch:
        copied = copy_store(store, tmp_path / "among.zarr" / "video", Path(scratch) / "a")
        assert list(Path(scratch).iterdir()) == []
    assert [path.parent for path in written] == [copied.parent]
    assert [path.name for path in copied.parent.iterdir()] == ["video"]
    assert copied.read_bytes() == store.read_bytes()


def test_a_store_of_others_is_none_of_ours(tmp_path: Path, store: Path) -> None:
    zarr.create_group(tmp_path / "theirs.zarr")
    (tmp_path / "old.zarr").mkdir()
    (tmp_path / "old.zarr" / "0.0").write_bytes(b"chunk")
    assert find_stores(tmp_path) == [store]


@pytest.mark.parametrize("put", [lambda path: path.write_text("mine"), lambda path: write(path, schema=MATCHES)])
def test_what_others_wrote_is_not_replaced(tmp_path: Path, put) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "latents.zarr" / "video"
    path.parent.mkdir()
    put(path)
    with pytest.raises(DataError, match="video: was not written by vidseg; choose another place"):
        write(path)


def test_one_video_takes_the_place_of_several(tmp_path: Path, store: Path) -> None:
    (store.parent / ".other.partial").write_bytes(b"")  # of a killed writer
    path = write(store.parent)
    assert path.is_dir() and is_current(path, LATENTS, "seed 0")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("latents.zarr/video", "among.zarr/others"),
        ("one/latents.zarr", "among.zarr/others"),  # of an earlier version
        ("one/latents.zarr", "alone.zarr"),
    ],
)
def test_copies(tmp_path: Path, store: Path, source: str, target: str) -> None:
    write(tmp_path / "one" / "latents.zarr")
    path = copy_store(tmp_path / source, tmp_path / target, tmp_path / "tmp" / "copy")
    np.testing.assert_array_equal(open_store(path, LATENTS).read("latents"), values())
    assert path.is_file() == (target != "alone.zarr")
