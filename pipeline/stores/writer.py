"""Writing a store shard by shard; it becomes visible only when it is complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.errors import DataError, ResourceError
from pipeline.files import prune, refuse_foreign, replace_folder, require_writable
from pipeline.finite import first_broken
from pipeline.stores.packed import is_one_of_several, open_group, pack
from pipeline.stores.schemas import ArraySpec, Schema
from pipeline.stores.store import (
    DAMAGE,
    count_shards,
    damage,
    is_current,
    missing_shards,
    plain_value,
    planned_name,
    shard_count,
    shard_name,
)

#: Folder of lock files within a scratch folder.
LOCKS = "locks"


#: To make that folder, against others who remove it; some places take no folder ever.
MOST_TRIES = 100


class StoreWriter:
    """Writes one store shard by shard; nothing appears at `path` before `commit`, and no scratch before `write`.

    Args:
        path: final path of the store; that of one video among others becomes one file.
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
            "stage": schema.stage,
            "fingerprint": fingerprint,
            "params": json.loads(json.dumps(params, default=plain_value)),
            "backbone": backbone,
            "created_by": f"vidseg {metadata.version('vidseg')}",
            **(attrs or {}),
        }
        self._group: zarr.Group | None = None
        refuse_foreign(self.path, schema.mark)
        require_writable(self.path.parent)
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

    def missing(self, array: str | None = None) -> list[range]:
        """Frame ranges of the shards that an array still lacks, or at least one of all arrays, in order."""
        absent = {
            (shard * spec.shard, min((shard + 1) * spec.shard, spec.shape[0]))
            for name, spec in self._specs.items()
            if array in (None, name)
            for shard in missing_shards(
                self._store,
                [
                    f"{name}/{planned_name(spec.shape, number)}"
                    for number in range(count_shards(spec.shape, spec.shard))
                ],
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

    def attribute(self, name: str) -> Any:
        """A group attribute of a store whose shards are all written, by whichever processes."""
        with self._alone():
            place = self._store if self._store.is_dir() else self.path  # another process may have committed it
            return open_group(place).attrs[name]

    def describe(self, attrs: Mapping[str, Any]) -> None:
        """Change group attributes, by the time of `commit`: what is known only when all was computed."""
        self._attrs.update(attrs)

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
                if is_one_of_several(self.path):
                    pack(self._store, self.path, self._folder / "packed")
                    shutil.rmtree(self._store, ignore_errors=True)
                else:
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
        if any(shard_name(array, 0) != planned_name(array.shape, 0) for array in arrays.values()):
            shutil.rmtree(self._store, ignore_errors=True)  # begun when shards were named otherwise
            return
        for name, array in arrays.items():
            for number in range(shard_count(array)):
                if damage(self._store, name, array, number):
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
