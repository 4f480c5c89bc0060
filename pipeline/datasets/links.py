"""A registration: a folder of links to a data set's files, in the layout that ingest and DVC can work with.

    registration.json                    what was registered, and which label maps were looked at
    [<item>/index.json]                  of an item of several videos: what the files hold (see `index`)
    [<item>/]<video>/frames/<frame>.*    links to the frames
    [<item>/]<video>/labels/<frame>.png  links to the label maps, under the frames' names; and classes.json

DVC reads through links to files (not through links to folders), so it notices when a linked file changes, but for
items of several videos: there it watches index.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path

from pipeline.datasets import index
from pipeline.datasets.index import FileState
from pipeline.datasets.listing import Video
from pipeline.errors import DataError
from pipeline.files import Mark, refuse_foreign, replacing_folder
from pipeline.truth.class_list import class_list_record, write_classes

FILE = "registration.json"
SCHEMA = "registration"
MARK = Mark(FILE, SCHEMA)


def check_registration(folder: Path, source: Mapping[str, str]) -> None:
    """Check, before any work, that `folder` is free or holds an earlier registration of the same source.

    Raises:
        DataError: something else lies there.
    """
    refuse_foreign(folder, MARK)
    earlier = read_source(folder)
    if earlier is not None and earlier != dict(source):
        text = ", ".join(f"{key} {value}" for key, value in earlier.items())
        raise DataError(f"{folder}: holds another registration ({text}); choose another --name")


def read_source(folder: Path) -> dict[str, str] | None:
    """What a registration is of: `dataset`, `root` and `split`; None where no registration lies."""
    return dict(json.loads((folder / FILE).read_text())["source"]) if MARK.on(folder) else None


def known_states(folder: Path) -> dict[str, FileState]:
    """The files of items of several videos that an earlier registration looked at, by their absolute paths."""
    content = json.loads((folder / FILE).read_text()) if MARK.on(folder) else {}
    return {file: FileState(*state) for file, state in content.get("files", {}).items()}


def indexed_items(folder: Path) -> list[Path]:
    """The items' folders of a registration that have an index.json."""
    return sorted(path.parent for path in folder.glob(f"*/{index.FILE}"))


def write_registration(
    folder: Path, source: Mapping[str, str], videos: Mapping[str, Video], states: Mapping[str, FileState]
) -> Path:
    """Write the links of some videos, whole or not at all.

    Args:
        source: where they are from; what `check_registration` compares.
        videos: by their folders, relative to `folder`.
        states: of all files of the videos of items of several, by their absolute paths.
    """
    with replacing_folder(folder) as scratch:
        for place, video in videos.items():
            frames, labels = scratch / place / "frames", scratch / place / "labels"
            frames.mkdir(parents=True)
            labels.mkdir()
            for frame in video.frames:
                (frames / f"{frame.name}{frame.image.suffix}").symlink_to(frame.image.resolve())
                if frame.labels is not None:
                    (labels / f"{frame.name}.png").symlink_to(frame.labels.resolve())
            if not video.annotated:
                (labels / "README").write_text("This video has no ground truth.\n")
            elif video.classes is not None:
                write_classes(labels / "classes.json", video.classes)
        checked = {str(file): mark for video in videos.values() for file, mark in _marks(video).items()}
        content = {"schema": SCHEMA, "source": dict(source), "videos": list(videos), "checked": checked}
        if items := {scratch / Path(place).parent for place in videos if "/" in place}:
            for item in items:
                index.write_index(item, states)
            (scratch / index.IGNORE_FILE).write_text(index.IGNORED)
            content["files"] = {file: astuple(state) for file, state in states.items()}
        (scratch / FILE).write_text(json.dumps(content, indent=1) + "\n")
    return folder


def checked_maps(folder: Path, videos: Iterable[Video]) -> set[Path]:
    """The label maps that an earlier registration looked at, if neither they nor their classes have changed."""
    if not MARK.on(folder):
        return set()
    known = json.loads((folder / FILE).read_text()).get("checked", {})
    return {file for video in videos for file, mark in _marks(video).items() if known.get(str(file)) == mark}


def _marks(video: Video) -> dict[Path, str]:
    """File -> what tells that neither it nor what explains it has changed."""
    listed = None if video.classes is None else class_list_record(video.classes)
    classes = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()[:16]
    states = {file: file.stat() for file in video.annotated}
    return {file: f"{state.st_size} {state.st_mtime_ns} {classes}" for file, state in states.items()}
