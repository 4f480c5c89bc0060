"""What lies in a folder of artifacts: the stores, what each holds and costs, whether every shard is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import zarr

from pipeline.errors import DataError
from pipeline.files import read_inside
from pipeline.stores.packed import is_one_of_several, open_group
from pipeline.stores.schemas import SCHEMAS, Schema
from pipeline.stores.store import DAMAGE, damage, open_store, shard_count, shard_frames, shard_name

COMPLETE = "complete"


@dataclass(frozen=True)
class StoreEntry:
    """One store of a folder, whole or not.

    Attributes:
        schema: what it says it is.
        state: `COMPLETE`, or why no stage would read it.
        fingerprint: None where it has none.
        frames: how many the longest array has.
        arrays: name -> shape and dtype in words.
        logical_bytes: what the values take in memory; stored_bytes: what the files take.
    """

    path: Path
    schema: Schema
    state: str
    fingerprint: str | None
    frames: int
    arrays: dict[str, str]
    shards: int
    logical_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Shard:
    """One file of an array: frames start..stop, and what is wrong with it (None = its checksums hold)."""

    file: Path
    array: str
    number: int
    start: int
    stop: int
    problem: str | None


def find_stores(folder: Path) -> list[Path]:
    """All stores of ours at or below a folder, unfinished ones too, in the order of their paths.

    Raises:
        DataError: no such folder, or no store in it.
    """
    if not folder.is_dir() and _schema(folder) is None:
        raise DataError(f"{folder}: no such folder")
    found = [folder] if folder.is_file() else []
    for place, below, files in os.walk(folder):
        if _schema(Path(place)) is not None:
            found.append(Path(place))
            below.clear()
        elif Path(place).suffix == ".zarr":
            packed = [Path(place, name) for name in files if not name.startswith(".")]  # these are of a killed writer
            found += [path for path in packed if _schema(path) is not None]
    if not found:
        raise DataError(f"{folder}: no store of vidseg here or below; give a folder like data or data/extract")
    return sorted(found)


def describe(path: Path) -> StoreEntry:
    """What a store says of itself; one that is damaged says why in `state`."""
    schema = _schema(path)
    assert schema is not None, path
    try:
        open_store(path, schema)
        state = COMPLETE
    except DataError as error:
        state = str(error).removeprefix(f"{path}: ")
    attrs, arrays = _content(path)
    return StoreEntry(
        path,
        replace(schema, stage=str(attrs.get("stage", schema.stage))),
        state,
        attrs.get("fingerprint"),
        max((array.shape[0] for array in arrays.values()), default=0),
        {name: f"{array.shape} {array.dtype}" for name, array in arrays.items()},
        sum(shard_count(array) for array in arrays.values()),
        sum(array.nbytes for array in arrays.values()),
        folder_bytes(path),
    )


def check_shards(path: Path) -> Iterator[Shard]:
    """Read every shard of a store and compare its checksums."""
    for name, array in _content(path)[1].items():
        step = shard_frames(array)
        for number in range(shard_count(array)):
            file = path if path.is_file() else path / name / shard_name(array, number)
            stop = min((number + 1) * step, array.shape[0])
            yield Shard(file, name, number, number * step, stop, damage(path, name, array, number))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, or of a file; a link counts as what it leads to."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _schema(place: Path) -> Schema | None:
    """The kind of store that lies at a place; by its name where its metadata cannot be read."""
    packed = place.is_file()
    if not (is_one_of_several(place) if packed else (place / "zarr.json").is_file()):
        return None
    try:
        name = json.loads(read_inside(place, "zarr.json"))["attributes"]["schema"]
    except (ValueError, LookupError, TypeError, BadZipFile):
        name = next((part.stem for part in (place, place.parent) if part.suffix == ".zarr"), None)
    return SCHEMAS.get(name)


def _content(path: Path) -> tuple[dict[str, Any], dict[str, zarr.Array]]:
    try:
        group = open_group(path)
        return dict(group.attrs), dict(sorted(group.arrays()))
    except DAMAGE:
        return {}, {}
