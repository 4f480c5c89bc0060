"""The stores on disk: one Zarr v3 group per artifact, written shard by shard, visible only when complete.

A *store* is a directory `name.zarr` holding one group, or one file with all that is in it (see `packed`). Its arrays
have frames as their first axis, one frame per chunk and `shard` frames per file. A store is written into a scratch
folder keyed by its fingerprint and moved to its final path by one rename, so a killed stage leaves either nothing or
a scratch store that the next run continues. Several processes may write one scratch store: see `shard_claims`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import zarr
from zarr.core.sync import sync

from pipeline.errors import DataError
from pipeline.files import require_version
from pipeline.stores.packed import has_bytes, open_group
from pipeline.stores.schemas import Schema

#: What Zarr raises on damaged files; its own errors are ValueErrors.
DAMAGE = (ValueError, RuntimeError, OSError, KeyError, TypeError, BadZipFile)
#: Held while other reads are awaited: two threads would await each other.
_AWAITING = threading.Lock()


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex, 32 digits) of JSON-serialisable parts; equal parts give equal fingerprints."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=plain_value)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def array_fingerprint(array: np.ndarray) -> str:
    """SHA-256 (hex, 32 digits) of an array's dtype, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


class Attributes(dict[str, Any]):
    """A store's attributes; one that is asked for and not there means a damaged store."""

    def __init__(self, values: Mapping[str, Any], path: Path, schema: Schema) -> None:
        super().__init__(values)
        self._path, self._schema = path, schema

    def __missing__(self, name: str) -> Any:
        stage = self.get("stage", self._schema.stage)
        raise DataError(f"{self._path}: has no attribute '{name}'; delete the store and re-run `vidseg {stage}`")


class Store:
    """A complete store, opened read-only."""

    def __init__(self, path: Path, schema: Schema, attrs: Mapping[str, Any], arrays: Mapping[str, zarr.Array]) -> None:
        self.path = path
        self.schema = schema
        self.attrs = Attributes(attrs, path, schema)
        self._arrays = arrays

    @property
    def stage(self) -> str:
        """The stage that made it; stores of earlier versions do not say."""
        return str(self.attrs.get("stage", self.schema.stage))

    @property
    def fingerprint(self) -> str:
        return str(self.attrs["fingerprint"])

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.attrs["params"])

    def array(self, name: str) -> zarr.Array:
        """The Zarr array of that name; prefer `read`, which explains damaged files.

        Raises:
            DataError: the store has none.
        """
        if name not in self._arrays:
            raise DataError(f"{self.path}: has no array '{name}'; delete the store and re-run `vidseg {self.stage}`")
        return self._arrays[name]

    def has(self, name: str) -> bool:
        """Whether it has an array of that name."""
        return name in self._arrays

    def frames(self, name: str) -> int:
        return int(self.array(name).shape[0])

    def size(self, name: str) -> tuple[int, int]:
        """(H, W) of an array of pictures or maps (f, H, W, ...); raises as `array`."""
        height, width = self.array(name).shape[1:3]
        return height, width

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames start..stop of an array.

        Raises:
            DataError: a shard is truncated or does not match its checksum.
        """
        array = self.array(name)
        try:
            return np.asarray(array[start:stop])
        except DAMAGE as error:
            _await_other_reads()
            first = start // shard_frames(array)
            number = next((n for n in range(first, shard_count(array)) if damage(self.path, name, array, n)), first)
            raise DataError(
                f"{self.path}: array '{name}' is damaged in shard {number} ({shard_name(array, number)}: "
                f"{_first_line(error)}); delete the store and re-run `vidseg {self.stage}`"
            ) from error


def open_store(path: Path, schema: Schema) -> Store:
    """Open a store read-only and check that it is whole.

    Raises:
        DataError: it is missing, of another kind or schema version, incomplete, or lacks shards. The message
            names the stage to re-run.
    """
    path = Path(path)
    remedy = f"run `vidseg {schema.stage}` to make it"
    if not path.exists():
        raise DataError(f"{path}: no such store; {remedy}")
    try:
        group = open_group(path)
    except DAMAGE as error:
        if path.is_file():  # no stage replaces what it cannot recognise
            remedy = f"delete it and re-run `vidseg {schema.stage}`"
        raise DataError(f"{path}: not a Zarr store ({type(error).__name__}); {remedy}") from error
    attrs = group.attrs
    if attrs.get("schema") != schema.name:
        raise DataError(f"{path}: holds '{attrs.get('schema')}', expected '{schema.name}'; {remedy}")
    require_version(path, attrs, schema.version, f"re-run `vidseg {schema.stage}`")
    if attrs.get("complete") is not True:
        raise DataError(f"{path}: incomplete, its stage was interrupted; re-run `vidseg {schema.stage}`")
    try:
        arrays = dict(group.arrays())
    except DAMAGE as error:
        raise DataError(
            f"{path}: the description of an array is damaged ({_first_line(error)}); "
            f"delete the store and re-run `vidseg {schema.stage}`"
        ) from error
    named = attrs.get("arrays", schema.arrays)
    if not isinstance(named, list | tuple):
        raise DataError(f"{path}: attribute 'arrays' is damaged; delete the store and re-run `vidseg {schema.stage}`")
    lost = [name for name in named if name not in arrays]
    if lost:
        raise DataError(f"{path}: has no array '{lost[0]}'; delete the store and re-run `vidseg {schema.stage}`")
    for name, array in arrays.items():
        absent = missing_shards(path, [f"{name}/{shard_name(array, number)}" for number in range(shard_count(array))])
        if absent:
            raise DataError(
                f"{path}: array '{name}' lacks {len(absent)} of its shards (first: {absent[0]}); "
                f"delete the store and re-run `vidseg {schema.stage}`"
            )
    return Store(path, schema, dict(attrs), arrays)


def is_current(path: Path, schema: Schema, fingerprint: str) -> bool:
    """Whether a complete store with this fingerprint already lies at `path`."""
    try:
        return open_store(path, schema).fingerprint == fingerprint
    except DataError:
        return False


def shard_frames(array: zarr.Array) -> int:
    """Frames per shard file of an array."""
    return int((array.shards or array.chunks)[0])


def shard_count(array: zarr.Array) -> int:
    """Shard files of an array."""
    return count_shards(array.shape, shard_frames(array))


def shard_name(array: zarr.Array, number: int) -> str:
    """Path of a shard's file within its array's folder, also of a store that has a folder per index."""
    return str(array.metadata.encode_chunk_key((number, *(0,) * (array.ndim - 1))))


def planned_name(shape: tuple[int, ...], number: int) -> str:
    """Path of a shard's file within the folder of an array that `_create_array` will make."""
    return ".".join(["c", str(number), *["0"] * (len(shape) - 1)])


def damage(path: Path, name: str, array: zarr.Array, number: int) -> str | None:
    """What is wrong with a shard of a store's array of that name, in words; None when its checksums hold."""
    if not has_bytes(path)(f"{name}/{shard_name(array, number)}"):
        return "missing or empty"
    start = number * shard_frames(array)
    try:
        array[start : start + shard_frames(array)]
    except DAMAGE as error:
        _await_other_reads()
        return _first_line(error)
    return None


def _await_other_reads() -> None:
    """Wait for the chunks that Zarr began to read beside the one that failed.

    Zarr leaves them running; where the process ends meanwhile, each prints a traceback behind the one-line error.
    """

    async def others() -> None:
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    with _AWAITING:
        sync(others())


def count_shards(shape: tuple[int, ...], shard: int) -> int:
    return 0 if 0 in shape else math.ceil(shape[0] / shard)


def missing_shards(path: Path, names: Sequence[str]) -> list[int]:
    # Zarr reads a missing or empty shard silently as the fill value, so presence is checked on the files.
    there = has_bytes(path)
    return [number for number, name in enumerate(names) if not there(name)]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def plain_value(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Sequence):
        return list(value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    raise TypeError(f"cannot serialise {type(value).__name__}")
