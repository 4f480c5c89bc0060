"""Where a DVC run keeps its artifacts: `data/<stage>/<item>/<store>`.

An item is one or more videos. With one video the store itself lies at that path; with several, the path is a
folder with one store per video, each in one file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, UsageError
from pipeline.spans import parse_span
from stages.common import yaml_files

DATA = Path("data")
VIDEOS = Path("videos.yaml")
#: Where registrations of data sets lie.
REGISTRATIONS = Path("inputs")
#: DVC needs a path to watch; in videos.yaml this one stands for "there is none".
NONE = "inputs/none"
#: What the first entry of an item names, each a path or `NONE`: DVC watches what they hold.
PATHS = ("path", "ground_truth", "classes", "mask", "names")
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


def cuts_in(ingested: Place) -> Path | None:
    """Where ingest says at which frames a video is cut; None = an earlier version ingested it, which did not say."""
    folder = ingested / "cuts"
    return folder if folder.is_dir() else None


#: Stages take either a plain folder or a video's place in an item.
Out = Path | Place

#: What `--shards` stands for when it is not given.
EVERY_SHARD = slice(None)


def parse_shards(text: str | None) -> slice:
    """`--shards`, a range like 3:7 (3 to 6), 3: or :7, as a slice of shard numbers; None stands for all."""
    return EVERY_SHARD if text is None else parse_span(text, "--shards")


def scratch_of(out: Out) -> Path:
    """Where a stage that may be split keeps unfinished stores: in `VIDSEG_SCRATCH`, else beside its output."""
    shared = os.environ.get("VIDSEG_SCRATCH")
    return Path(shared) if shared else out / "tmp"


def item_key(item: str) -> str:
    """The item's key from `--item KEY` or from DVC's `DVC_STAGE`, which reads `stage@KEY`.

    Raises:
        UsageError: the key has characters that are not safe in a path.
    """
    return _checked_key(item.partition("@")[2] or item)


def _checked_key(key: str) -> str:
    if not KEY.fullmatch(key):
        raise UsageError(f"item '{key}': keys may hold letters, digits, '_' and '-' only (videos.yaml)")
    return key


_EXPECTED = {
    "items": "each with a list of videos",
    "concepts": "each with its `references`",
    "applied": "each with an `item` and a `concept`",
}
#: What brings a videos.yaml of an earlier version up to date.
COMPLETE = "`vidseg videos list` completes it"
#: The parts of videos.yaml. DVC goes through each of them, so that they must be there even when they are empty.
PARTS = ("items", "concepts", "applied")


def item_keys(videos_file: Path = VIDEOS) -> list[str]:
    """The keys of all items of videos.yaml, sorted.

    Raises:
        UsageError: no such file, no items, or a key that is not safe or not text.
    """
    items = read_part("items", videos_file)
    if not items:
        raise UsageError(f"{videos_file}: lists no items; `vidseg videos add VIDEO` writes them")
    return sorted(map(_checked_key, items))


def read_part(part: str, videos_file: Path = VIDEOS) -> dict[str, Any]:
    """The entries of one of `PARTS` by their keys, as videos.yaml has them.

    Raises:
        UsageError: no such file, a part that is missing or no mapping, or a key that is not text.
    """
    text = yaml_files.text_of(videos_file, "run in the project's folder or give paths instead of --item")
    content = _parsed(text, str(videos_file)) or {}
    entries = (content.get(part) or {}) if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise UsageError(f"{videos_file}: expected `{part}:` with keys, {_EXPECTED[part]}")
    lacking = [name for name in PARTS if name not in content]
    if lacking and "items" not in lacking:
        raise UsageError(f"{videos_file}: is of an earlier version, without `{lacking[0]}`; {COMPLETE}")
    for key in entries:
        if not isinstance(key, str):  # DVC leaves such an entry out without a word
            raise UsageError(f"{videos_file}: the key {key!r} is no text to YAML; put it in quotes")
    return entries


@lru_cache(maxsize=4)
def _parsed(text: str, what: str) -> Any:
    """The content of videos.yaml, which commands ask for once per item; nobody changes it."""
    return yaml_files.parse(text, what)


def without_names(items: Any, applied: Any) -> dict[str, dict[str, Any]]:
    """The entries that lack `names`, in which DVC looks for it: those of an earlier version, by what they are called.

    Args:
        items, applied: these parts of videos.yaml; what is no entry is left to its readers, who say what is wrong.
    """
    found: dict[str, Any] = {}
    if isinstance(items, dict):
        found |= {f"item '{key}'": videos[0] for key, videos in items.items() if isinstance(videos, list) and videos}
    if isinstance(applied, dict):
        found |= {f"'{name}' under `applied`": entry for name, entry in applied.items()}
    return {what: entry for what, entry in found.items() if isinstance(entry, dict) and "names" not in entry}


def item_videos(key: str, videos_file: Path = VIDEOS) -> list[dict[str, Any]]:
    """One entry per video of an item in videos.yaml; used by ingest, the only stage that looks at raw video.

    An entry with `videos: [a, b]` stands for the videos `path/a/frames` and `path/b/frames` with the ground truth
    `ground_truth/a/labels`, ...: so DVC, which sees only an item's first entry, watches all of them. The index.json of
    such a folder, which `vidseg dataset register` writes, stands for the folder. Its `fps` is of all of them, or a list
    of one each.

    Raises:
        UsageError: no such file or item, or an entry without a path.
    """
    items = read_part("items", videos_file)
    if key not in items:
        raise UsageError(f"{videos_file}: no item '{key}'; there are: {', '.join(items) or 'none'}")
    entries = items[key]
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) and "path" in e for e in entries):
        raise UsageError(f"{videos_file}: item '{key}' must be a list of videos, each with a `path`")
    for entry in entries:
        if "videos" in entry and not (isinstance(entry["videos"], list) and entry["videos"]):
            raise UsageError(f"{videos_file}: item '{key}': `videos` must be a list of names: [a, b]")
        rates = entry.get("fps")
        if isinstance(rates, list) and len(rates) != len(entry.get("videos", ())):
            raise UsageError(f"{videos_file}: item '{key}': a list in `fps` must have one rate for each of `videos`")
        if "videos" in entry and isinstance(entry.get("cuts"), list):
            raise UsageError(
                f"{videos_file}: item '{key}': a list in `cuts` is of one video; give each an entry of its own"
            )
        for name in PATHS:
            # Only a path must be there.
            if not isinstance(entry[name] if name == "path" else entry.get(name) or NONE, str):
                raise UsageError(f"{videos_file}: item '{key}': `{name}` must be a path, not {entry[name]!r}")
        if entry is not entries[0] and entry.get("names", NONE) != NONE:
            raise UsageError(
                f"{videos_file}: item '{key}': `names` stands at its first entry: a folder with VIDEO/names.json"
            )
    return [video for entry in entries for video in _videos(entry)]


def video_name(entry: dict[str, Any]) -> str:
    """The name of one of an item's several videos."""
    return str(entry.get("name") or Path(entry["path"]).stem)


def names_of(key: str, video: str | None, videos_file: Path = VIDEOS) -> Path | None:
    """names.json of one video of an item, as videos.yaml has it; None = its segments have no names."""
    if not videos_file.is_file() or key not in read_part("items", videos_file):
        return None
    named = item_videos(key, videos_file)[0].get("names") or NONE
    return None if named == NONE else names_in(named, video)


def names_in(named: str, video: str | None) -> Path | None:
    """names.json of one video, where `names` in videos.yaml is that path; None = the segments of this one have none.

    That of an item of one video is the file, that of one of several videos a folder with VIDEO/names.json of those
    that have names.

    Raises:
        DataError: there should be a folder.
    """
    if video is None:
        return Path(named)
    if not Path(named).is_dir():
        raise DataError(f"{named}: no such folder; `names` of an item of several videos holds VIDEO/names.json of each")
    file = Path(named) / video / "names.json"
    return file if file.exists() else None


def _videos(entry: dict[str, Any]) -> list[dict[str, Any]]:
    if "videos" not in entry:
        return [entry]
    from pipeline.datasets.index import folder_of

    common = {key: value for key, value in entry.items() if key != "videos"}
    folders = {"path": "frames", "ground_truth": "labels"}
    given = {key: folder for key, folder in folders.items() if entry.get(key, NONE) != NONE}
    places = {key: folder_of(entry[key]) for key in given}
    videos = [
        {**common, "name": name, **{key: f"{places[key]}/{name}/{folder}" for key, folder in given.items()}}
        for name in map(str, entry["videos"])
    ]
    if isinstance(entry.get("fps"), list):
        return [{**video, "fps": fps} for video, fps in zip(videos, entry["fps"], strict=True)]
    return videos


def place(stage: str, key: str, video: str | None) -> Place:
    """Where a stage keeps one video of an item."""
    return Place(DATA / stage / key, video)


def videos_of(key: str, store: str = "clip.zarr", stage: str = "ingest", data: Path = DATA) -> list[str | None]:
    """Names of the videos that a stage has written for an item; `[None]` for an item of one video.

    Raises:
        DataError: the stage has not run for this item.
    """
    folder = data / stage / key / store
    if (folder / "zarr.json").is_file():
        return [None]
    names = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
    if not names:
        raise DataError(f"{folder}: nothing here; run `vidseg {stage} --item {key}` or `dvc repro {stage}@{key}`")
    return list(names)
