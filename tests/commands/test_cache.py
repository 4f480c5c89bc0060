"""`vidseg cache`: what lies in a folder of stores, which shards are damaged, what they cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.stores.schemas import FEATURES, LABELS, LATENTS, ArraySpec, Schema
from pipeline.stores.writer import StoreWriter
from tests.support.commands import error_line, vidseg
from tests.support.feature_store import make_features


def put(path: Path, schema: Schema, shape: tuple[int, ...], dtype: str = "float32") -> Path:
    specs = {name: ArraySpec(shape, dtype, shard=2) for name in schema.arrays}
    writer = StoreWriter(path, path.parent / "tmp", schema, "0123456789abcdef", specs, params={})
    for name in specs:
        writer.write(name, 0, np.random.default_rng(0).integers(0, 9, shape).astype(dtype))
    return writer.commit()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two items: `one` with features and latents of 5 frames, `two` of two videos with labels of 3 and 1 frames."""
    put(tmp_path / "data/extract/one/features.zarr", FEATURES, (5, 6, 8))
    put(tmp_path / "data/extract/one/latents.zarr", LATENTS, (5, 4, 2, 3))
    put(tmp_path / "data/upsample/two/labels.zarr/a", LABELS, (3, 16, 16), "uint8")
    put(tmp_path / "data/upsample/two/labels.zarr/b", LABELS, (1, 16, 16), "uint8")
    (tmp_path / "data/upsample/two/notes.txt").write_text("mine\n")
    return tmp_path / "data"


def test_ls_shows_every_store(data: Path) -> None:
    lines = vidseg("cache", "ls", cwd=data.parent).stdout.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["store", "stage", "frames", "shards"],
        ["data/extract/one/features.zarr", "extract", "5", "6"],
        ["data/extract/one/latents.zarr", "extract", "5", "3"],
        ["data/upsample/two/labels.zarr/a", "upsample", "3", "2"],
        ["data/upsample/two/labels.zarr/b", "upsample", "1", "1"],
    ]
    assert lines[1].endswith("0123456789ab  aggregated (5, 6, 8) float32, matching (5, 6, 8) float32")


def test_ls_tells_unfinished_and_old_stores(data: Path) -> None:
    writer = StoreWriter(
        data / "extract/new/latents.zarr", data / "extract/new/tmp", LATENTS, "mark",
        {"latents": ArraySpec((4, 1), "float32", shard=2)}, params={},
    )  # fmt: skip
    writer.write("latents", 0, np.zeros((2, 1)))
    old = data / "extract/one/latents.zarr/zarr.json"
    old.write_text(old.read_text().replace('"schema_version": 1', '"schema_version": 0'))
    found = {entry["path"]: entry["state"] for entry in json.loads(vidseg("cache", "ls", data, "--json").stdout)}
    assert found[f"{data}/extract/new/tmp/mark/latents.zarr"].startswith("incomplete, its stage was interrupted")
    assert found[f"{data}/extract/one/latents.zarr"].startswith("schema version 0, this program reads 1")
    assert found[f"{data}/extract/one/features.zarr"] == "complete"
    said = vidseg("cache", "ls", data).stdout.splitlines()
    assert any(
        line.endswith(f"if no run is to go on with it, remove it: rm -r {data}/extract/new/tmp/mark") for line in said
    )


def test_one_store_can_be_given(data: Path) -> None:
    printed = vidseg("cache", "verify", data / "upsample/two/labels.zarr/a").stdout
    assert printed == f"{data}/upsample/two/labels.zarr/a: 2 shards ok\n"


def test_verify_names_each_damaged_shard(data: Path) -> None:
    whole = vidseg("cache", "verify", data).stdout.splitlines()
    assert [line.rpartition(": ")[2] for line in whole] == ["6 shards ok", "3 shards ok", "2 shards ok", "1 shards ok"]
    store = data / "extract/one/features.zarr"
    files = ("aggregated/c.0.0.0", "matching/c.1.0.0", "matching/c.2.0.0")
    flipped, cut, gone = (store / file for file in files)
    content = bytearray(flipped.read_bytes())
    content[20] ^= 1
    flipped.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:30])
    gone.unlink()
    result = vidseg("cache", "verify", data, check=3)
    assert "1 of 4 stores cannot be used (first: " in error_line(result)
    lines = result.stdout.splitlines()
    assert lines[0] == f"{store}: 3 of 6 shards damaged"
    assert lines[1].startswith(f"  {flipped}: frames 0:2 of 'aggregated': ")
    assert lines[2].startswith(f"  {cut}: frames 2:4 of 'matching': ")
    assert lines[3] == f"  {gone}: frames 4:5 of 'matching': missing or empty"
    assert [line.rpartition(": ")[2] for line in lines[4:]] == ["3 shards ok", "2 shards ok", "1 shards ok"]


def test_an_encoder_s_features_are_seen_and_checked(tmp_path: Path) -> None:
    store = make_features(tmp_path, frames=6, encoding="int8", encoder="lite", parts="encoder")
    assert "encoder (6, 24, 5) int8, encoder_scale (6, 24) float16" in vidseg("cache", "ls", tmp_path).stdout
    assert vidseg("cache", "verify", tmp_path).stdout == f"{store}: 4 shards ok\n"
    damaged = store / "encoder" / "c.1.0.0"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert f"  {damaged}: frames 4:6 of 'encoder': " in vidseg("cache", "verify", tmp_path, check=3).stdout
    shutil.rmtree(store / "encoder")
    line = error_line(vidseg("cache", "verify", tmp_path, check=3))
    assert f"1 of 1 stores cannot be used (first: {store})" in line


@pytest.mark.parametrize("metadata", ["zarr.json", "latents/zarr.json"])
def test_verify_fails_on_damaged_metadata(data: Path, metadata: str) -> None:
    (data / "extract/one/latents.zarr" / metadata).write_text("{")
    result = vidseg("cache", "verify", data, "--json", check=3)
    (broken,) = [entry for entry in json.loads(result.stdout) if entry["state"] != "complete"]
    assert broken["path"] == f"{data}/extract/one/latents.zarr"


def test_size_adds_up_to_what_lies_there(data: Path) -> None:
    sizes = json.loads(vidseg("cache", "size", data, "--json").stdout)
    assert sizes["stages"]["extract"]["stores"] == 2
    assert sizes["stages"]["extract"]["frames"] == 5
    assert sizes["stages"]["extract"]["logical_bytes"] == 4 * 5 * (2 * 6 * 8 + 4 * 2 * 3)
    assert sizes["stages"]["upsample"]["frames"] == 4
    total = sum(file.stat().st_size for file in data.rglob("*") if file.is_file())
    assert sizes["total"]["stored_bytes"] + sizes["total"]["other_files"] == total
    assert sizes["total"]["other_files"] == 5
    lines = vidseg("cache", "size", data).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "extract", "upsample", "all", "other"]


@pytest.mark.parametrize("command", ["ls", "verify", "size"])
@pytest.mark.parametrize(("folder", "message"), [("none", "no such folder"), (".", "no store of vidseg here")])
def test_a_folder_without_stores_is_an_error(tmp_path: Path, command: str, folder: str, message: str) -> None:
    assert message in error_line(vidseg("cache", command, tmp_path / folder, check=3))
