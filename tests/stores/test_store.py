from __future__ import annotations

import asyncio
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

from pipeline.errors import DataError, ResourceError
from pipeline.stores.schemas import FEATURES, LABELS, LATENTS, MATCHES, TRUTH, ArraySpec, label_dtype
from pipeline.stores.store import Store, fingerprint, is_current, open_store
from pipeline.stores.store import damage as damage_of
from pipeline.stores.writer import StoreWriter

SPECS = {"latents": ArraySpec((5, 2, 3), "float32", shard=2)}


def writer(path: Path, mark: str = "abc", specs: dict[str, ArraySpec] = SPECS) -> StoreWriter:
    return StoreWriter(path, path.parent / "tmp", LATENTS, mark, specs, params={"seed": 1}, backbone="x")


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((5, 2, 3)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = writer(tmp_path / "latents.zarr")
    made.write("latents", 0, values())
    return made.commit()


def test_round_trip_and_plain_zarr_reader(store: Path) -> None:
    opened = open_store(store, LATENTS)
    np.testing.assert_array_equal(opened.read("latents", 1, 4), values()[1:4])
    assert opened.params == {"seed": 1}
    assert opened.fingerprint == "abc"
    group = zarr.open_group(store, mode="r")
    assert group.attrs["complete"] is True
    assert group["latents"].shards == (2, 2, 3)
    assert not (store.parent / "tmp").exists()


def test_nothing_at_the_final_path_before_commit(tmp_path: Path) -> None:
    made = writer(tmp_path / "latents.zarr")
    made.write("latents", 0, values()[:2])
    assert not (tmp_path / "latents.zarr").exists()
    with pytest.raises(DataError, match="2 shards are not written"):
        made.commit()


def test_a_killed_writer_is_continued_to_the_same_bytes(tmp_path: Path, store: Path) -> None:
    path = tmp_path / "again" / "latents.zarr"
    first = writer(path)
    first.write("latents", 2, values()[2:4])
    (path.parent / "tmp" / "abc" / "latents.zarr" / "latents" / "x.partial").touch()
    second = writer(path)
    assert second.missing() == [range(0, 2), range(4, 5)]
    for shard in second.missing():
        second.write("latents", shard.start, values()[shard.start : shard.stop])
    second.commit()
    files = {file.relative_to(store): file.read_bytes() for file in store.rglob("*") if file.is_file()}
    assert files == {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a place that takes no folders")
def test_a_scratch_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    made = StoreWriter(tmp_path / "x.zarr", Path("/proc/tmp"), LATENTS, "abc", SPECS, params={}, backbone="x")
    with pytest.raises(ResourceError, match=r"/proc/tmp/abc: no folder can be made there; choose another output"):
        made.write("latents", 0, values())


def test_commit_replaces_an_older_store(store: Path) -> None:
    made = writer(store, "def")
    made.write("latents", 0, values(1))
    made.commit()
    assert not is_current(store, LATENTS, "abc")
    assert is_current(store, LATENTS, "def")
    np.testing.assert_array_equal(open_store(store, LATENTS).read("latents"), values(1))
    assert sorted(path.name for path in store.parent.iterdir()) == ["latents.zarr"]


def shard_file(store: Path) -> Path:
    return store / "latents" / "c.1.0.0"


def one_folder_per_index(folder: Path) -> None:
    """Name the shards of a store, finished or not, as earlier versions did: latents/c/1/0/0."""
    description = folder / "latents" / "zarr.json"
    content = json.loads(description.read_text())
    content["chunk_key_encoding"]["configuration"]["separator"] = "/"
    description.write_text(json.dumps(content))
    for file in (folder / "latents").glob("c.*"):
        target = folder / "latents" / file.name.replace(".", "/")
        target.parent.mkdir(parents=True)
        file.rename(target)


def test_a_store_with_a_folder_per_index_is_read_and_checked(store: Path) -> None:
    one_folder_per_index(store)
    np.testing.assert_array_equal(open_store(store, LATENTS).read("latents"), values())
    (store / "latents/c/1/0/0").unlink()
    with pytest.raises(DataError, match="re-run `vidseg extract`"):
        open_store(store, LATENTS)


def test_a_scratch_store_with_a_folder_per_index_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "latents.zarr"
    writer(path).write("latents", 0, values()[:2])
    one_folder_per_index(tmp_path / "tmp/abc/latents.zarr")
    again = writer(path)
    assert len(again.missing()) == 3
    again.write("latents", 0, values())
    np.testing.assert_array_equal(open_store(again.commit(), LATENTS).read("latents"), values())


def truncate(store: Path) -> None:
    shard_file(store).write_bytes(shard_file(store).read_bytes()[:-9])


def flip_byte(store: Path) -> None:
    content = bytearray(shard_file(store).read_bytes())
    content[10] ^= 255
    shard_file(store).write_bytes(bytes(content))


def set_attr(name: str, value: object):  # type: ignore[no-untyped-def]
    def damage(store: Path) -> None:
        zarr.open_group(store, mode="r+").attrs[name] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda store: shard_file(store).unlink(),
            r"'latents' lacks 1 of its shards \(first: 1\).*vidseg extract",
        ),
        (lambda store: shutil.rmtree(store), "no such store; run `vidseg extract`"),
        (lambda store: (store / "zarr.json").write_text("{"), "not a Zarr store"),
        (set_attr("complete", False), "incomplete, its stage was interrupted; re-run `vidseg extract`"),
        (set_attr("schema_version", 0), "schema version 0, this program reads 1; re-run `vidseg extract`"),
        (set_attr("schema", "coarse"), "holds 'coarse', expected 'latents'"),
        (lambda store: shutil.rmtree(store / "latents"), "has no array 'latents'; delete the store and re-run"),
        (set_attr("arrays", ["latents", "encoder"]), "has no array 'encoder'; delete the store and re-run"),
        (set_attr("arrays", 3), "attribute 'arrays' is damaged; delete the store and re-run `vidseg extract`"),
    ],
)
def test_damage_seen_on_open(store: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(store)
    with pytest.raises(DataError, match=message):
        open_store(store, LATENTS)


def test_a_store_says_which_arrays_it_has(tmp_path: Path) -> None:
    """Others than those of its kind: `vidseg extract` may write an encoder's features alone."""
    specs = {"encoder": ArraySpec((5, 2, 3), "float32", shard=2)}
    path = tmp_path / "features.zarr"
    attrs = {"arrays": ["encoder"]}
    made = StoreWriter(path, tmp_path / "tmp", FEATURES, "abc", specs, params={}, attrs=attrs)
    made.write("encoder", 0, values())
    opened = open_store(made.commit(), FEATURES)
    assert opened.has("encoder") and not opened.has("matching")
    np.testing.assert_array_equal(opened.read("encoder"), values())
    shutil.rmtree(path / "encoder")
    with pytest.raises(DataError, match="features.zarr: has no array 'encoder'; delete the store and re-run"):
        open_store(path, FEATURES)


@pytest.mark.parametrize("damage", [truncate, flip_byte])
def test_damage_seen_on_read(store: Path, damage) -> None:  # type: ignore[no-untyped-def]
    damage(store)
    opened = open_store(store, LATENTS)
    opened.read("latents", 0, 2)
    with pytest.raises(DataError, match=r"'latents' is damaged in shard 1 \(c\.1\.0\.0: .*re-run `vidseg extract`"):
        opened.read("latents", 2, 4)


def damaged(path: Path) -> Store:
    """A store of 60 frames in one shard, of which a byte is wrong."""
    made = writer(path, specs={"latents": ArraySpec((60, 2, 3), "float32", shard=60)})
    made.write("latents", 0, np.ones((60, 2, 3), np.float32))
    made.commit()
    (file,) = (path / "latents").glob("c.0*")
    content = bytearray(file.read_bytes())
    content[10] ^= 255
    file.write_bytes(bytes(content))
    return open_store(path, LATENTS)


def test_a_read_that_fails_leaves_no_other_one_running(tmp_path: Path) -> None:
    """What still runs when the process ends would print its traceback behind the one-line error."""

    async def running() -> int:
        return len(asyncio.all_tasks()) - 1

    opened = damaged(tmp_path / "latents.zarr")
    with pytest.raises(DataError, match="'latents' is damaged in shard 0"):
        opened.read("latents")
    assert sync(running()) == 0
    assert damage_of(opened.path, "latents", opened.array("latents"), 0)
    assert sync(running()) == 0


def test_threads_whose_reads_fail_do_not_wait_for_each_other(tmp_path: Path) -> None:
    opened = damaged(tmp_path / "latents.zarr")
    failed = []

    def read() -> None:
        for _ in range(10):
            with pytest.raises(DataError):
                opened.read("latents")
        failed.append(True)

    threads = [threading.Thread(target=read, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(failed) == 4


@pytest.mark.parametrize(
    ("start", "wrong", "message"),
    [
        (0, np.full((2, 2, 3), np.nan, np.float32), "NaN or infinite values in frame 0"),
        (2, np.where(np.arange(2)[:, None, None] == 1, np.inf, np.zeros((2, 2, 3))), "in frame 3"),
        (0, np.zeros((2, 3, 3), np.float32), "takes"),
        (1, np.zeros((2, 2, 3), np.float32), "not whole shards of 2"),
    ],
)
def test_refused_values(tmp_path: Path, start: int, wrong: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        writer(tmp_path / "latents.zarr").write("latents", start, wrong)


def test_all_zero_label_maps_are_data(tmp_path: Path) -> None:
    specs = {"labels": ArraySpec((3, 4, 4), "uint8", shard=14)}
    path = tmp_path / "labels.zarr"
    made = StoreWriter(path, tmp_path / "tmp", LABELS, "m", specs, params={})
    made.write("labels", 0, np.zeros((3, 4, 4), np.uint8))
    made.commit()
    assert open_store(path, LABELS).read("labels").sum() == 0


def test_an_empty_store_is_complete(tmp_path: Path) -> None:
    specs = {"ground_truth": ArraySpec((0, 4, 4), "uint8")}
    path = tmp_path / "truth.zarr"
    StoreWriter(path, tmp_path / "tmp", TRUTH, "m", specs, params={}).commit()
    assert open_store(path, TRUTH).frames("ground_truth") == 0


def test_fingerprint_depends_on_content_not_on_key_order() -> None:
    assert fingerprint({"a": 1, "b": (2,)}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert replace(LATENTS, version=2) != LATENTS


def test_a_failure_before_the_first_shard_leaves_no_scratch(tmp_path: Path) -> None:
    made = writer(tmp_path / "latents.zarr")
    assert made.missing() == [range(0, 2), range(2, 4), range(4, 5)]
    with pytest.raises(DataError, match="NaN or infinite"):
        made.write("latents", 0, np.full((2, 2, 3), np.nan, np.float32))
    assert not list(tmp_path.iterdir())
    made.write("latents", 0, values())
    for frame in (2, 0):
        made.merge_attr("psnr", {frame: frame + 0.5})
    assert list(open_store(made.commit(), LATENTS).attrs["psnr"].items()) == [("0", 0.5), ("2", 2.5)]


def put_file(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def put_other_store(path: Path) -> None:
    shard = StoreWriter(path, path.parent / "tmp", MATCHES, "m", SPECS, params={})
    shard.write("latents", 0, values())
    shard.commit()


def put_zarr_of_others(path: Path) -> None:
    zarr.open_group(path, mode="w").attrs["schema"] = "other"


@pytest.mark.parametrize("put", [put_file, put_other_store, put_zarr_of_others, lambda path: path.write_text("mine")])
def test_what_others_wrote_is_not_replaced(tmp_path: Path, put) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "latents.zarr"
    put(path)
    with pytest.raises(DataError, match=r"latents.zarr: was not written by vidseg; choose another place"):
        writer(path)
    assert path.exists() and not (tmp_path / "tmp").exists()


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.mkdir(),
        lambda path: put_again(path, set_attr("schema_version", 0)),
        lambda path: put_again(path, set_attr("complete", False)),
        lambda path: put_again(path / "video", lambda store: None),
    ],
    ids=["empty", "other version", "incomplete", "several videos"],
)
def test_our_own_stores_are_replaced(tmp_path: Path, put) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "latents.zarr"
    put(path)
    put_again(path, lambda store: None)
    assert open_store(path, LATENTS).fingerprint == "abc"


def put_again(path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    made = writer(path)
    made.write("latents", 0, values())
    damage(made.commit())


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="Permission denied"):
        writer(tmp_path / "new" / "latents.zarr")


@pytest.mark.parametrize(("highest", "dtype"), [(0, "uint8"), (255, "uint8"), (256, "uint16")])
def test_label_dtype(highest: int, dtype: str) -> None:
    assert label_dtype(highest) == dtype


def test_label_dtype_refuses_more_than_uint16() -> None:
    with pytest.raises(DataError, match="65536 is larger than 65535"):
        label_dtype(65536)
