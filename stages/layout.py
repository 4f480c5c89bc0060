"""Where a DVC run keeps its artifacts: `data/<stage>/<item>/<store>`.

An item is one or more videos. With one video the store itself lies at that path; with several, the path is a
folder with one store per video.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, UsageError

DATA = Path("data")
#: Keys of items. No dot: to DVC, `items.a.b` is b within a.
KEY = re.compile(r"[A-Za-z0-9_-]+")
#: Names of videos within an item are only folders.
NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Place:
    """One video's folder: `place / "clip.zarr"` is that video's store, as `folder / "clip.zarr"` is for a Path."""

    folder: Path
    video: str | None = None

    def __truediv__(self, store: str) -> Path:
        return self.folder / store / self.video if self.video else self.folder / store


def beside(store: Path, name: str) -> Path:
    """What lies beside a store under that name, also where the store is one of several videos of an item."""
    if store.parent.suffix == ".zarr":
        return store.parent.parent / name / store.name
    return store.parent / name


#: Stages take either a plain folder or a video's place in an item.
Out = Path | Place


def item_key(item: str) -> str:
    """The item's key from `--item KEY` or from DVC's `DVC_STAGE`, which reads `stage@KEY`.

    Raises:
        UsageError: the key has characters that are not safe in a path.
    """
    key = item.partition("@")[2] or item
    if not KEY.fullmatch(key):
        raise UsageError(f"item '{key}': keys may hold letters, digits, '_' and '-' only (videos.yaml)")
    return key


def item_keys(videos_file: Path = Path("videos.yaml")) -> list[str]:
    """The keys of all items of videos.yaml, sorted.

    Raises:
        UsageError: no such file, no items, or a key that is not safe.
    """
    items = _items(videos_file)
    if not items:
        raise UsageError(f"{videos_file}: lists no items; `vidseg videos add VIDEO` writes them")
    return sorted(map(item_key, items))


def _items(videos_file: Path) -> dict[str, Any]:
    import yaml

    if not videos_file.is_file():
        raise UsageError(f"{videos_file}: no such file; run in the project's folder or give paths instead of --item")
    items = (yaml.safe_load(videos_file.read_text()) or {}).get("items") or {}
    return {str(key): entries for key, entries in items.items()}


def item_videos(key: str, videos_file: Path = Path("videos.yaml")) -> list[dict[str, Any]]:
    """The entries of one item in videos.yaml; used by ingest, the only stage that looks at raw video.

    Raises:
        UsageError: no such file or item, or an entry without a path.
    """
    items = _items(videos_file)
    if key not in items:
        raise UsageError(f"{videos_file}: no item '{key}'; there are: {', '.join(items) or 'none'}")
    entries = items[key]
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) and "path" in e for e in entries):
        raise UsageError(f"{videos_file}: item '{key}' must be a list of videos, each with a `path`")
    return entries


def place(stage: str, key: str, video: str | None) -> Place:
    """Where a stage keeps one video of an item."""
    return Place(DATA / stage / key, video)


def videos_of(key: str, store: str = "clip.zarr", stage: str = "ingest") -> list[str | None]:
    """Names of the videos that a stage has written for an item; `[None]` for an item of one video.

    Raises:
        DataError: the stage has not run for this item.
    """
    folder = DATA / stage / key / store
    if (folder / "zarr.json").is_file():
        return [None]
    names = sorted(path.name for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
    if not names:
        raise DataError(f"{folder}: nothing here; run `vidseg {stage} --item {key}` or `dvc repro {stage}@{key}`")
    return list(names)
