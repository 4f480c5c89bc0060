"""Folders that stages write: put in place by one rename, never over what vidseg did not write."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.stores.schemas import Schema


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


def _json_member(path: Path, *keys: str) -> Any:
    """A member of a JSON file's nested objects; None where there is no such file or member."""
    try:
        value = json.loads(path.read_text())
        for key in keys:
            value = value[key]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return value


def require_writable(folder: Path) -> None:
    """Fail before the work rather than after it."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))
