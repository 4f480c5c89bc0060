"""The stores on disk: one Zarr v3 group per artifact, written shard by shard, visible only when complete.

A *store* is a directory `name.zarr` holding one group. Its arrays have frames as their first axis, one frame
per chunk and `shard` frames per file. A store is written into a scratch folder keyed by its fingerprint and
moved to its final path by one rename, so a killed stage leaves either nothing or a scratch store that the
next run continues. Several processes may write one scratch store: see `shard_claims`.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.sync import sync

from pipeline.errors import DataError, ResourceError
from pipeline.finite import first_broken


@dataclass(frozen=True)
class Schema:
    """What a store holds: its name, the version of its layout, the stage that writes it and the arrays it has."""

    name: str
    version: int
    stage: str
    arrays: tuple[str, ...]


CLIP = Schema("clip", 1, "ingest", ("frames",))
TRUTH = Schema("truth", 1, "ingest", ("ground_truth",))
FEATURES = Schema("features", 1, "extract", ("aggregated", "matching"))
LATENTS = Schema("latents", 1, "extract", ("latents",))
MATCHES = Schema("matches", 1, "correspond", ("next", "similarity"))
COARSE = Schema("coarse", 1, "segment", ("initial", "refined"))
LABELS = Schema("labels", 1, "upsample", ("labels",))
#: All of them by name.
SCHEMAS = {schema.name: schema for schema in (CLIP, TRUTH, FEATURES, LATENTS, MATCHES, COARSE, LABELS)}


#: What Zarr raises on damaged files; its own errors are ValueErrors.
DAMAGE = (ValueError, RuntimeError, OSError, KeyError, TypeError)
#: Folder of lock files within a scratch folder.
LOCKS = "locks"
#: To make that folder, against others who remove it; some places take no folder ever.
MOST_TRIES = 100
#: Held while other reads are awaited: two threads would await each other.
_AWAITING = threading.Lock()


@dataclass(frozen=True)
class ArraySpec:
    """Template of one array: full shape (frames first), dtype, and frames per shard file."""

    shape: tuple[int, ...]
    dtype: str
    shard: int = 14


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex, 32 digits) of JSON-serialisable parts; equal parts give equal fingerprints."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def array_fingerprint(array: np.ndarray) -> str:
    """SHA-256 (hex, 32 digits) of an array's dtype, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def label_dtype(highest: int) -> str:
    """The smallest of uint8 and uint16 that holds label values up to `highest`."""
    if highest > 65535:
        raise DataError(f"label {highest} is larger than 65535, the largest that label maps can hold")
    return "uint8" if highest <= 255 else "uint16"


class Attributes(dict[str, Any]):
    """A store's attributes; one that is asked for and not there means a damaged store."""

    def __init__(self, values: Mapping[str, Any], path: Path, schema: Schema) -> None:
        super().__init__(values)
        self._path, self._schema = path, schema

    def __missing__(self, name: str) -> Any:
        raise DataError(
            f"{self._path}: has no attribute '{name}'; delete the store and re-run `vidseg {self._schema.stage}`"
        )


class Store:
    """A complete store, opened read-only."""

    def __init__(self, path: Path, schema: Schema, group: zarr.Group) -> None:
        self.path = path
        self.schema = schema
        self.attrs = Attributes(dict(group.attrs), path, schema)
        self._group = group

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
        if name not in self._group:
            raise DataError(
                f"{self.path}: has no array '{name}'; delete the store and re-run `vidseg {self.schema.stage}`"
            )
        return self._group[name]  # type: ignore[return-value]

    def frames(self, name: str) -> int:
        return int(self.array(name).shape[0])

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
            number = next((n for n in range(first, shard_count(array)) if damage(self.path / name, array, n)), first)
            raise DataError(
                f"{self.path}: array '{name}' is damaged in shard {number} ({shard_name(array, number)}: "
                f"{_first_line(error)}); delete the store and re-run `vidseg {self.schema.stage}`"
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
        group = zarr.open_group(path, mode="r")
    except DAMAGE as error:
        raise DataError(f"{path}: not a Zarr store ({type(error).__name__}); {remedy}") from error
    attrs = group.attrs
    if attrs.get("schema") != schema.name:
        raise DataError(f"{path}: holds '{attrs.get('schema')}', expected '{schema.name}'; {remedy}")
    if attrs.get("schema_version") != schema.version:
        raise DataError(
            f"{path}: schema version {attrs.get('schema_version')}, this program reads {schema.version}; "
            f"re-run `vidseg {schema.stage}`"
        )
    if attrs.get("complete") is not True:
        raise DataError(f"{path}: incomplete, its stage was interrupted; re-run `vidseg {schema.stage}`")
    try:
        arrays = dict(group.arrays())
    except DAMAGE as error:
        raise DataError(
            f"{path}: the description of an array is damaged ({_first_line(error)}); "
            f"delete the store and re-run `vidseg {schema.stage}`"
        ) from error
    lost = [name for name in schema.arrays if name not in arrays]
    if lost:
        raise DataError(f"{path}: has no array '{lost[0]}'; delete the store and re-run `vidseg {schema.stage}`")
    for name, array in arrays.items():
        absent = _missing_shards(path / name, (shard_name(array, number) for number in range(shard_count(array))))
        if absent:
            raise DataError(
                f"{path}: array '{name}' lacks {len(absent)} of its shards (first: {absent[0]}); "
                f"delete the store and re-run `vidseg {schema.stage}`"
            )
    return Store(path, schema, group)


def is_current(path: Path, schema: Schema, fingerprint: str) -> bool:
    """Whether a complete store with this fingerprint already lies at `path`."""
    try:
        return open_store(path, schema).fingerprint == fingerprint
    except DataError:
        return False


class StoreWriter:
    """Writes one store shard by shard; nothing appears at `path` before `commit`, and no scratch before `write`.

    Args:
        path: final path of the store.
        scratch: folder for unfinished stores; a store of the same fingerprint found there is continued. Best on
            the file system of `path`: from another one the finished store is copied.
        schema, fingerprint, params, backbone, attrs: become group attributes.
        arrays: one `ArraySpec` per array; all arrays of a store share the first axis' length and shard.

    Raises:
        DataError: something that vidseg did not write lies at `path`.
        PermissionError: the folders cannot be written.
    """

    def __init__(
        self,
        path: Path,
        scratch: Path,
        schema: Schema,
        fingerprint: str,
        arrays: Mapping[str, ArraySpec],
        *,
        params: Mapping[str, Any],
        backbone: str | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.schema = schema
        self._fingerprint = fingerprint
        self._folder = Path(scratch) / fingerprint
        self._store = self._folder / f"{schema.name}.zarr"
        self._specs = dict(arrays)
        self._attrs: dict[str, Any] = {
            "schema": schema.name,
            "schema_version": schema.version,
            "fingerprint": fingerprint,
            "params": json.loads(json.dumps(params, default=_plain)),
            "backbone": backbone,
            "created_by": f"vidseg {metadata.version('vidseg')}",
            **(attrs or {}),
        }
        self._group: zarr.Group | None = None
        refuse_foreign_store(self.path, schema)
        _require_writable(self.path.parent)
        if (self._store / "zarr.json").exists():
            with self._alone():
                self._drop_damaged()
            self._opened()

    def is_complete(self) -> bool:
        """Whether this store lies at its final path already, e.g. because another process has finished it."""
        return is_current(self.path, self.schema, self._fingerprint)

    def shards(self) -> list[range]:
        """Frame ranges of all shards, in order."""
        spec = next(iter(self._specs.values()))
        total = spec.shape[0]
        return [range(start, min(start + spec.shard, total)) for start in range(0, total, spec.shard)]

    @contextmanager
    def claim(self, shard: range, wait: bool) -> Iterator[bool]:
        """Lock a shard against other processes; yields whether it is ours. A killed process loses its locks.

        Args:
            wait: for a process that has it, instead of giving up.
        """
        lock = self._locked(str(shard.start), wait)
        if lock is None:
            yield False
            return
        try:
            yield True
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            prune(self._folder / LOCKS)

    def missing(self) -> list[range]:
        """Frame ranges of the shards that at least one array still lacks, in order."""
        absent = {
            (shard * spec.shard, min((shard + 1) * spec.shard, spec.shape[0]))
            for name, spec in self._specs.items()
            for shard in _missing_shards(
                self._store / name,
                (_planned_name(spec.shape, number) for number in range(_shard_count(spec.shape, spec.shard))),
            )
        }
        return [range(start, stop) for start, stop in sorted(absent)]

    def write(self, name: str, start: int, values: np.ndarray) -> None:
        """Write whole shards: `values` (f, ...) become the frames start, start+1, ... of array `name`.

        Raises:
            DataError: the values are not finite, or do not fit the template.
        """
        spec = self._specs[name]
        stop = start + len(values)
        if values.shape[1:] != spec.shape[1:] or stop > spec.shape[0]:
            raise DataError(f"{self.path}: array '{name}' takes {spec.shape}, got {values.shape} at frame {start}")
        if start % spec.shard or (stop % spec.shard and stop != spec.shape[0]):
            raise DataError(f"{self.path}: frames {start}:{stop} of '{name}' are not whole shards of {spec.shard}")
        if np.issubdtype(values.dtype, np.floating):
            broken = first_broken(values)
            if broken is not None:
                raise DataError(
                    f"{self.path}: array '{name}' has NaN or infinite values in frame {start + broken}; "
                    "check the frame and the weights, or use float32 (backbone.dtype, extract.dtype)"
                )
        self._array(name)[start:stop] = values.astype(spec.dtype, copy=False)

    def merge_attr(self, name: str, values: Mapping[int, Any]) -> None:
        """Add to a group attribute that maps frames to values; other processes may add to it as well."""
        self._opened()
        with self._alone():
            group = zarr.open_group(self._store, mode="r+")
            known: Any = group.attrs.get(name, {})
            merged = {int(frame): value for frame, value in {**known, **values}.items()}
            group.attrs[name] = {str(frame): value for frame, value in sorted(merged.items())}

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Frames already written to the scratch store."""
        return np.asarray(self._array(name)[start:stop])

    def commit(self) -> Path:
        """Check that every shard is there, mark the store complete and move it to its final path.

        Where several processes write the store, the last one does so and the others find it done.
        """
        with self._alone():
            remaining = self.missing()
            if remaining and self.is_complete():
                shutil.rmtree(self._store, ignore_errors=True)  # opened while the last one moved the store away
            elif remaining:
                raise DataError(f"{self.path}: {len(remaining)} shards are not written yet")
            else:
                group = self._open()
                for partial in self._store.rglob("*.partial"):  # left by a killed writer
                    partial.unlink()
                group.attrs["complete"] = True
                replace_folder(self._store, self.path)
        if not any(self._folder.glob("*.zarr")):
            shutil.rmtree(self._folder / LOCKS, ignore_errors=True)
        prune(self._folder)
        return self.path

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While this is held, no other process makes, describes or moves the store."""
        lock = self._locked(self.schema.name, wait=True)
        assert lock is not None
        try:
            yield
        finally:
            lock.release()

    def _locked(self, name: str, wait: bool) -> FileLock | None:
        lock = FileLock(self._folder / LOCKS / f"{name}.lock")
        for _ in range(MOST_TRIES):
            try:
                (self._folder / LOCKS).mkdir(parents=True, exist_ok=True)
                lock.acquire(blocking=wait)
                return lock
            except FileNotFoundError:  # another process has just removed the folder: its last shard was written
                continue
            except Timeout:
                return None
        raise ResourceError(
            f"{self._folder}: no folder can be made there; choose another output folder, or another VIDSEG_SCRATCH"
        )

    def _drop_damaged(self) -> None:
        """Remove what a machine left damaged that was lost before its disk had everything: it is made again."""
        try:
            arrays = dict(zarr.open_group(self._store, mode="r").arrays())
        except DAMAGE:
            shutil.rmtree(self._store, ignore_errors=True)
            return
        if any(shard_name(array, 0) != _planned_name(array.shape, 0) for array in arrays.values()):
            shutil.rmtree(self._store, ignore_errors=True)  # begun when shards were named otherwise
            return
        for name, array in arrays.items():
            for number in range(shard_count(array)):
                if damage(self._store / name, array, number):
                    (self._store / name / shard_name(array, number)).unlink(missing_ok=True)

    def _opened(self) -> zarr.Group:
        """The scratch store: made when first needed, so that a stage that fails early leaves none."""
        if self._group is None or not (self._store / "zarr.json").exists():  # another process may have moved it away
            with self._alone():
                self._group = self._open()
        return self._group

    def _open(self) -> zarr.Group:
        if not (self._store / "zarr.json").exists():
            shutil.rmtree(self._store, ignore_errors=True)
        group = zarr.open_group(self._store, mode="a", zarr_format=3)
        for name, spec in self._specs.items():
            if name not in group:
                _create_array(group, name, spec)
        group.attrs.update(self._attrs)
        return group

    def _array(self, name: str) -> zarr.Array:
        # An all-zero label map is data; Zarr keeps this setting per opened array, not in the store.
        with zarr.config.set({"array.write_empty_chunks": True}):
            return self._opened()[name]  # type: ignore[return-value]


def prune(scratch: Path) -> None:
    """Remove a scratch folder and its parents up to `tmp`, as far as they are empty."""
    chain = (scratch, *scratch.parents[:2])  # in an item of several videos `tmp` is two levels up
    inside = [place for place, folder in enumerate(chain) if folder.name == "tmp"]
    for folder in chain[: inside[0] + 1 if inside else 1]:
        with suppress(OSError):  # not empty, or removed by another process
            folder.rmdir()


def refuse_foreign(target: Path, is_ours: Callable[[Path], bool]) -> None:
    """Check, before any work, that `replace_folder` would remove nothing that somebody else put at `target`.

    Ours are an empty folder, a folder of which `is_ours` says so, and one of such folders (several videos).

    Raises:
        DataError: something else lies there.
    """

    def ours(folder: Path) -> bool:
        return folder.is_dir() and (is_ours(folder) or all(map(ours, folder.iterdir())))

    if target.exists() and not ours(target):
        raise DataError(f"{target}: was not written by vidseg; choose another place for the output or move it away")


def refuse_foreign_store(target: Path, schema: Schema) -> None:
    """`refuse_foreign` for a store; an incomplete one, or one of another version, is ours too.

    Raises:
        DataError: something else lies there.
    """
    refuse_foreign(target, lambda folder: _json_member(folder / "zarr.json", "attributes", "schema") == schema.name)


def is_json_of(path: Path, schema: str) -> bool:
    """Whether a file is a JSON object whose `schema` is that one."""
    return _json_member(path, "schema") == schema


def replace_folder(source: Path, target: Path) -> None:
    """Move a finished folder to `target`; what lay there is renamed aside first and then removed.

    Callers make sure that it is theirs to remove, e.g. by `refuse_foreign`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    near = source
    if source.stat().st_dev != target.parent.stat().st_dev:  # a rename does not cross file systems
        near = target.with_name(f"{target.name}.partial")
        shutil.rmtree(near, ignore_errors=True)
        shutil.copytree(source, near)
    aside = near.with_name(f"{near.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.rename(aside)
    near.rename(target)
    for leftover in (aside, source):
        shutil.rmtree(leftover, ignore_errors=True)


def _create_array(group: zarr.Group, name: str, spec: ArraySpec) -> None:
    chunks = tuple(max(1, size) for size in (1, *spec.shape[1:]))
    floating = np.issubdtype(np.dtype(spec.dtype), np.floating)
    group.create_array(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=chunks,
        shards=(spec.shard, *chunks[1:]),
        compressors=[BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        fill_value=float("nan") if floating else 0,
        # All shards in their array's folder: with a folder per index, DVC, which walks folders, takes twice as long.
        chunk_key_encoding={"name": "default", "separator": "."},
    )


def shard_frames(array: zarr.Array) -> int:
    """Frames per shard file of an array."""
    return int((array.shards or array.chunks)[0])


def shard_count(array: zarr.Array) -> int:
    """Shard files of an array."""
    return _shard_count(array.shape, shard_frames(array))


def shard_name(array: zarr.Array, number: int) -> str:
    """Path of a shard's file within its array's folder, also of a store that has a folder per index."""
    return str(array.metadata.encode_chunk_key((number, *(0,) * (array.ndim - 1))))


def _planned_name(shape: tuple[int, ...], number: int) -> str:
    """The same, of an array that `_create_array` makes."""
    return ".".join(["c", str(number), *["0"] * (len(shape) - 1)])


def damage(folder: Path, array: zarr.Array, number: int) -> str | None:
    """What is wrong with a shard's file in an array's folder, in words; None when its checksums hold."""
    if not _has_bytes(folder / shard_name(array, number)):
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


def _shard_count(shape: tuple[int, ...], shard: int) -> int:
    return 0 if 0 in shape else math.ceil(shape[0] / shard)


def _missing_shards(folder: Path, names: Iterable[str]) -> list[int]:
    # Zarr reads a missing or empty shard silently as the fill value, so presence is checked on the files.
    return [number for number, name in enumerate(names) if not _has_bytes(folder / name)]


def _has_bytes(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _json_member(path: Path, *keys: str) -> Any:
    """A member of a JSON file's nested objects; None where there is no such file or member."""
    try:
        value = json.loads(path.read_text())
        for key in keys:
            value = value[key]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return value


def _require_writable(folder: Path) -> None:
    """Fail before the work rather than after it."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Sequence):
        return list(value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    raise TypeError(f"cannot serialise {type(value).__name__}")
