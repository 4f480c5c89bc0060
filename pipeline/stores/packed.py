"""A store in one file: a ZIP of its Zarr files, as they are. DVC, which walks folders, watches it at once.

The videos of an item of several are packed: `data/<stage>/<item>/<store>.zarr/<video>` is such a file. A store of its
own is a folder. Equal folders give equal bytes: names are sorted and dates are left out.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from zipfile import ZipFile, ZipInfo

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ZipStore

from pipeline.files import remove_folder, replacing, replacing_folder, scratch_folder

#: Before the bytes of a file a ZIP has a header; at its end, how long the name and the extra field are that follow it.
NAME_AND_EXTRA = Struct("<26xHH")
HEADER = NAME_AND_EXTRA.size


def is_one_of_several(path: Path) -> bool:
    """Whether a store's path is that of one video among others: `labels.zarr/<video>`."""
    return path.parent.suffix == ".zarr"


def pack(folder: Path, path: Path, scratch: Path) -> None:
    """Write the files of a finished store's folder as one file, by one rename; what lay at `path` is replaced.

    Callers make sure that it is theirs to remove, e.g. by `refuse_foreign`.

    Args:
        scratch: a folder for the unfinished file, not there or left by a killed run; best on the disk of `path`.
    """
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    with _replacing(path, scratch) as partial, ZipFile(partial, "w") as packed:
        for name, file in sorted(files.items()):
            entry = ZipInfo(name)  # of 1980
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            entry.file_size = file.stat().st_size  # decides whether it needs the fields of large files
            with packed.open(entry, "w") as target, file.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)


def copy_store(store: Path, path: Path, scratch: Path) -> Path:
    """Copy a finished store to `path`, by one rename; `scratch` is a path for a folder on the same disk.

    Callers make sure that what lies at `path` is theirs to remove.
    """
    if store.is_file():
        with _replacing(path, scratch) as partial:
            shutil.copyfile(store, partial)
    elif is_one_of_several(path):
        pack(store, path, scratch)
    else:
        with replacing_folder(path, scratch) as copy:
            shutil.copytree(store, copy, dirs_exist_ok=True)
    return path


@contextmanager
def _replacing(path: Path, scratch: Path) -> Iterator[Path]:
    """As `replacing`, also of a store that is a folder, as earlier versions left them.

    The temporary file lies in a scratch folder: a kill leaves nothing beside the store, which DVC would look at. A
    rename does not cross file systems: with scratch on another disk the file does lie beside the store, and what a
    kill leaves of it goes with the next write.
    """
    disk = next(place for place in path.parents if place.exists()).stat().st_dev
    with scratch_folder(scratch) as folder:
        if folder.stat().st_dev != disk:
            with replacing(path) as near:
                yield near
                _remove_earlier(path)
            return
        partial = folder / path.name
        yield partial
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_earlier(path)
        partial.replace(path)


def _remove_earlier(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)


def open_group(path: Path) -> zarr.Group:
    """The Zarr group of a store, packed or a folder, read-only."""
    return zarr.open_group(_PackedStore(path, mode="r") if path.is_file() else path, mode="r")


def has_bytes(path: Path) -> Callable[[str], bool]:
    """What tells of a file's name within a store, like `labels/c.0.0.0`, whether it is there and not empty."""
    if path.is_file():
        with ZipFile(path) as packed:
            sizes = {entry.filename: entry.file_size for entry in packed.infolist()}
        return lambda name: sizes.get(name, 0) > 0
    return lambda name: (path / name).is_file() and (path / name).stat().st_size > 0


class _PackedStore(ZipStore):
    """Reads a range of bytes where it lies: `zipfile` reads all that comes before it, one thread at a time."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if not self._is_open:
            await self._open()
        try:
            entry = self._zf.getinfo(key)
        except KeyError:
            return None
        return await asyncio.to_thread(self._read, entry, prototype, byte_range)

    def _read(self, entry: ZipInfo, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer:
        start, stop = 0, entry.file_size
        if isinstance(byte_range, RangeByteRequest):
            start, stop = byte_range.start, min(byte_range.end, stop)
        elif isinstance(byte_range, OffsetByteRequest):
            start = byte_range.offset
        elif isinstance(byte_range, SuffixByteRequest):
            start = max(0, stop - byte_range.suffix)
        assert self._zf.fp is not None
        file = self._zf.fp.fileno()  # of what was opened, also when another file takes its place
        name, extra = NAME_AND_EXTRA.unpack(os.pread(file, HEADER, entry.header_offset))
        at = entry.header_offset + HEADER + name + extra + start
        parts = []
        while stop > start and (part := os.pread(file, stop - start, at)):  # 2 GB at once at most
            parts.append(part)
            start, at = start + len(part), at + len(part)
        return prototype.buffer.from_bytes(b"".join(parts))
