"""Where a DVC run keeps its artifacts: `data/<stage>/<item>/<store>`.

An item is one or more videos. With one video the store itself lies at that path; with several, the path is a
folder with one store per video.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, UsageError

DATA = Path("data")
KEY = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Place:
    """One video's folder: `place / "clip.zarr"` is that video's store, as `folder / "clip.zarr"` is for a Path."""

    folder: Path
    video: str | None = None

    def __truediv__(self, store: str) -> Path:
        return self.folder / store / self.video if self.video else self.folder / store


#: Stages take either a plain folder or a video's place in an item.
Out = Path | Place


def item_key(item: str) -> str:
    """The item's key from `--item KEY` or from DVC's `DVC_STAGE`, which reads `stage@KEY`.

    Raises:
        UsageError: the key has characters that are not safe in a path.
    """
    key = item.partition("@")[2] or item
    if not KEY.fullmatch(key) or key in (".", ".."):
        raise UsageError(f"item '{key}': keys may hold letters, digits, '.', '_' and '-' only (videos.yaml)")
    return key


def item_videos(key: str, videos_file: Path = Path("videos.yaml")) -> list[dict[str, Any]]:
    """The entries of one item in videos.yaml; used by ingest, the only stage that looks at raw video.

    Raises:
        UsageError: no such file or item, or an entry without a path.
    """
    import yaml

    if not videos_file.is_file():
        raise UsageError(f"{videos_file}: no such file; run in the project's folder or give paths instead of --item")
    items = (yaml.safe_load(videos_file.read_text()) or {}).get("items") or {}
    if key not in items:
        raise UsageError(f"{videos_file}: no item '{key}'; there are: {', '.join(map(str, items)) or 'none'}")
    entries = items[key]
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) and "path" in e for e in entries):
        raise UsageError(f"{videos_file}: item '{key}' must be a list of videos, each with a `path`")
    return entries


def places(stage: str, key: str, videos: list[str | None]) -> list[Place]:
    """The places of an item's videos in the output of a stage."""
    return [Place(DATA / stage / key, video) for video in videos]


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


def dvc_stage() -> str | None:
    """What DVC is running (`stage@item`), if anything: named in log lines."""
    return os.environ.get("DVC_STAGE")
