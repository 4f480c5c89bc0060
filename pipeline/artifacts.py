"""The stores on disk: one Zarr v3 group per artifact, written shard by shard, visible only when complete.

A *store* is a directory `name.zarr` holding one group. Its arrays have frames as their first axis, one frame
per chunk and `shard` frames per file. A store is written into a scratch folder keyed by its fingerprint and
moved to its final path by one rename, so a killed stage leaves either nothing or a scratch store that the
next run continues.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.errors import DataError
from pipeline.finite import first_broken


@dataclass(frozen=True)
class Schema:
    """What a store holds: its name, the version of its layout and the stage that writes it."""

    name: str
    version: int
    stage: str


CLIP = Schema("clip", 1, "ingest")
TRUTH = Schema("truth", 1, "ingest")
FEATURES = Schema("features", 1, "extract")
LATENTS = Schema("latents", 1, "extract")
MATCHES = Schema("matches", 1, "correspond")
COARSE = Schema("coarse", 1, "segment")
LABELS = Schema("labels", 1, "upsample")


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


class Store:
    """A complete store, opened read-only."""

    def __init__(self, path: Path, schema: Schema, group: zarr.Group) -> None:
        self.path = path
        self.schema = schema
        self.attrs: dict[str, Any] = dict(group.attrs)
        self._group = group

    @property
    def fingerprint(self) -> str:
        return str(self.attrs["fingerprint"])

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.attrs["params"])

    def array(self, name: str) -> zarr.Array:
        """The Zarr array of that name; prefer `read`, which explains damaged files."""
        return self._group[name]  # type: ignore[return-value]

    def frames(self, name: str) -> int:
        return int(self.array(name).shape[0])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames start..stop of an array.

        Raises:
            DataError: a shard is truncated or does not match its checksum.
        """
        try:
            return np.asarray(self.array(name)[start:stop])
        except (ValueError, RuntimeError, OSError) as error:
            first = start // shard_frames(self.array(name))
            raise DataError(
                f"{self.path}: array '{name}' is damaged at or after shard {first} "
                f"({str(error).splitlines()[0]}); delete the store and re-run `vidseg {self.schema.stage}`"
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
    except (FileNotFoundError, ValueError, KeyError, OSError) as error:
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
    for name, array in group.arrays():
        absent = _missing_shards(path / name, array.shape, shard_frames(array))
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
        scratch: folder for unfinished stores, on the same file system as `path`; a store of the same
            fingerprint found there is continued.
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
            for partial in self._store.rglob("*.partial"):  # left by a killed writer
                partial.unlink()
            self._opened()

    def missing(self) -> list[range]:
        """Frame ranges of the shards that at least one array still lacks, in order."""
        absent = {
            (shard * spec.shard, min((shard + 1) * spec.shard, spec.shape[0]))
            for name, spec in self._specs.items()
            for shard in _missing_shards(self._store / name, spec.shape, spec.shard)
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

    def set_attrs(self, attrs: Mapping[str, Any]) -> None:
        """Add group attributes that are known only after writing."""
        self._attrs |= json.loads(json.dumps(dict(attrs), default=_plain))
        if self._group is not None:
            self._group.attrs.update(self._attrs)

    def get_attr(self, name: str, default: Any = None) -> Any:
        """An attribute set earlier, possibly by the interrupted run that this one continues."""
        known = self._attrs if self._group is None else self._group.attrs
        return known.get(name, default)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Frames already written to the scratch store."""
        return np.asarray(self._array(name)[start:stop])

    def commit(self) -> Path:
        """Check that every shard is there, mark the store complete and move it to its final path."""
        remaining = self.missing()
        if remaining:
            raise DataError(f"{self.path}: {len(remaining)} shards are not written yet")
        group = self._opened()
        for partial in self._store.rglob("*.partial"):
            partial.unlink()
        group.attrs["complete"] = True
        replace_folder(self._store, self.path)
        prune(self._folder)
        return self.path

    def _opened(self) -> zarr.Group:
        """The scratch store: made when first needed, so that a stage that fails early leaves none."""
        if self._group is None:
            if not (self._store / "zarr.json").exists():
                shutil.rmtree(self._store, ignore_errors=True)
            self._store.parent.mkdir(parents=True, exist_ok=True)
            self._group = zarr.open_group(self._store, mode="a", zarr_format=3)
            for name, spec in self._specs.items():
                if name not in self._group:
                    _create_array(self._group, name, spec)
            self._group.attrs.update(self._attrs)
        return self._group

    def _array(self, name: str) -> zarr.Array:
        # An all-zero label map is data; Zarr keeps this setting per opened array, not in the store.
        with zarr.config.set({"array.write_empty_chunks": True}):
            return self._opened()[name]  # type: ignore[return-value]


def prune(scratch: Path) -> None:
    """Remove a scratch folder and its parents up to `tmp`, as far as they are empty."""
    for folder in (scratch, *scratch.parents[:2]):  # in an item of several videos `tmp` is two levels up
        if folder.exists() and not any(folder.iterdir()):
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
    aside = source.with_name(f"{source.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.rename(aside)
    source.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


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
    )


def shard_frames(array: zarr.Array) -> int:
    """Frames per shard file of an array."""
    return int((array.shards or array.chunks)[0])


def _missing_shards(folder: Path, shape: tuple[int, ...], shard: int) -> list[int]:
    # Zarr reads a missing shard silently as the fill value, so presence is checked on the files.
    if 0 in shape:
        return []
    tail = ["0"] * (len(shape) - 1)
    count = math.ceil(shape[0] / shard)
    return [index for index in range(count) if not folder.joinpath("c", str(index), *tail).is_file()]


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
