"""Files and folders are put in place whole, by one rename, and never over what vidseg did not write."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from pipeline.errors import DataError


def prune(scratch: Path) -> None:
    """Remove a scratch folder and its parents up to `tmp`, as far as they are empty."""
    chain = (scratch, *scratch.parents[:2])  # in an item of several videos `tmp` is two levels up
    inside = [place for place, folder in enumerate(chain) if folder.name == "tmp"]
    for folder in chain[: inside[0] + 1 if inside else 1]:
        with suppress(OSError):  # not empty, or removed by another process
            folder.rmdir()


@dataclass(frozen=True)
class Mark:
    """How a folder tells that vidseg wrote it.

    Attributes:
        file: a JSON file that lies in it.
        value: what a member of that file says; None = the file need only be there.
        member: the keys that lead to it.
        holds: patterns like `mask*.png` of all names that such a folder may hold; None = anything.
    """

    file: str
    value: str | None = None
    member: tuple[str, ...] = ("schema",)
    holds: frozenset[str] | None = None

    def on(self, folder: Path) -> bool:
        """Whether a folder, or a ZIP of one, has the mark; where there is neither, it has none."""
        try:
            content = read_inside(folder, self.file)
            if self.holds is not None and not all(
                any(fnmatchcase(path.name, pattern) for pattern in self.holds) for path in folder.iterdir()
            ):
                return False
            found: Any = None if self.value is None else json.loads(content)
            for key in self.member if self.value is not None else ():
                found = found[key]
        except (OSError, ValueError, LookupError, TypeError, BadZipFile):
            return False
        return bool(found == self.value)


def read_inside(place: Path, name: str) -> bytes:
    """The content of a file of a folder, or of a ZIP of one.

    Raises:
        OSError, KeyError, BadZipFile: no such file, or no ZIP.
    """
    if not place.is_file():
        return (place / name).read_bytes()
    with ZipFile(place) as packed:
        return packed.read(name)


def refuse_foreign(target: Path, mark: Mark) -> None:
    """Check, before any work, that `replace_folder` would remove nothing that somebody else put at `target`.

    Ours are an empty folder, a folder or ZIP with the mark, and a folder of such (several videos).

    Raises:
        DataError: something else lies there.
    """

    def ours(place: Path) -> bool:
        return mark.on(place) or _is_leftover(place) or (place.is_dir() and all(map(ours, place.iterdir())))

    if target.exists() and not ours(target):
        raise DataError(f"{target}: was not written by vidseg; choose another place for the output or move it away")


def _is_leftover(file: Path) -> bool:
    """Whether it is what `replacing` leaves behind where it is killed."""
    return file.is_file() and fnmatchcase(file.name, ".*.partial*")


def require_version(place: Path, content: Mapping[str, Any], version: int, remedy: str) -> None:
    """Check that what lies at `place` has the layout that this program reads, by its `schema_version`.

    Raises:
        DataError: it has another; `remedy` says what to do.
    """
    if content.get("schema_version") != version:
        raise DataError(
            f"{place}: schema version {content.get('schema_version')}, this program reads {version}; {remedy}"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside the file `path` that becomes `path` on success and is removed on failure.

    It is of this path alone, so that threads may write the files of a folder; what a kill leaves goes with the next
    write of the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, with its real suffix, and no longer than a name may be: long names may begin alike.
    mark = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    temporary = path.with_name(f".{path.stem[:50]}.{mark}.partial{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """An empty folder while this is held. Then it goes, and with it the parents that hold nothing else.

    Those are the ones that were made for it, and `tmp` where it lies in one.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run
    made = [place for place in folder.parents if not place.exists()]
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        prune(folder)
        for place in made:
            with suppress(OSError):  # not empty, or removed already
                place.rmdir()


@contextmanager
def replacing_folder(target: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` on success and is removed on failure.

    Callers make sure that what lies at `target` is theirs to remove, e.g. by `refuse_foreign`.

    Args:
        scratch: the folder, not there or left by a killed run; None = a hidden one beside `target`.
    """
    with scratch_folder(scratch or target.with_name(f".{target.name}.partial")) as folder:
        yield folder
        replace_folder(folder, target)


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


def remove_folder(target: Path) -> None:
    """Remove a folder that is the caller's, first from its name: half of it is never seen there."""
    aside = target.with_name(f".{target.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    target.rename(aside)
    shutil.rmtree(aside)


def require_writable(folder: Path) -> None:
    """Fail before the work rather than after it."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))
