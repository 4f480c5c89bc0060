"""Concepts of videos.yaml, and the items that they are applied to.

A concept has annotated images; what is applied has a name of its own, which is no key of either, so that one item may
have the segments of several concepts. Everything that is computed for it lies under that name, as an item's results
lie under the item's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from stages.common.layout import NONE, VIDEOS, Place, item_key, item_videos, names_in, place, read_part, videos_of


@dataclass(frozen=True)
class Concept:
    """What a concept is learned from.

    Attributes:
        references: folder of annotated images.
        classes: class list (JSON file), with `#name` behind it when it holds several; None = the folder's own
            classes.json.
    """

    references: Path
    classes: Path | None

    @property
    def paths(self) -> dict[str, str | None]:
        """The paths by their names in videos.yaml."""
        return {"references": str(self.references), "classes": None if self.classes is None else str(self.classes)}


@dataclass(frozen=True)
class Applied:
    """A concept and an item of videos.yaml that get together under a name.

    Attributes:
        name: under which the results lie; no key of an item or a concept.
        item, concept: keys.
        skip: frames of the item's video, by their number in it, that are left out of scores: the concept knows them.
        names: names.json of the segments, for several videos a folder with VIDEO/names.json; None = the concept's own.
    """

    name: str
    item: str
    concept: str
    skip: tuple[int, ...] = ()
    names: str | None = None

    def videos(self) -> list[str | None]:
        """Names of the item's videos; `[None]` for one video."""
        return videos_of(self.item)

    def place(self, stage: str, video: str | None) -> Place:
        """Where a stage keeps one of these videos: what is computed of the item alone lies under the item's key."""
        return place(stage, self.item if stage in ("ingest", "extract") else self.name, video)

    def names_of(self, video: str | None) -> Path | None:
        """names.json of one of these videos; None = its segments are called as the concept calls them."""
        return None if self.names is None else names_in(self.names, video)


def concept_of(item: str, videos_file: Path = VIDEOS) -> tuple[str, Concept]:
    """The key and the entry of a concept.

    Args:
        item: its key, or DVC's `stage@KEY`.

    Raises:
        UsageError: there is none of that key, or its entry is not one of a concept.
    """
    key, found = item_key(item), read_part("concepts", videos_file)
    if key not in found:
        raise UsageError(f"{videos_file}: no concept '{key}'; there are: {', '.join(found) or 'none'}")
    entry = _entry(f"{videos_file}: concept '{key}'", found[key], ("references",), ("classes",))
    classes = entry.get("classes") or NONE
    return key, Concept(Path(entry["references"]), None if classes == NONE else Path(classes))


def applied_of(item: str, videos_file: Path = VIDEOS) -> Applied:
    """What is applied under a name.

    Args:
        item: the name, or DVC's `stage@NAME`.

    Raises:
        UsageError: nothing has that name, or its entry does not name an item and a concept that exist.
    """
    name, found = item_key(item), read_part("applied", videos_file)
    if name not in found:
        raise UsageError(
            f"{videos_file}: nothing is applied under the name '{name}'; there are: {', '.join(found) or 'none'}"
        )
    where = f"{videos_file}: applied '{name}'"
    items, concepts = read_part("items", videos_file), read_part("concepts", videos_file)
    for kind, known in (("an item", items), ("a concept", concepts)):
        if name in known:
            raise UsageError(f"{where}: {kind} has that key; choose another name")
    entry = dict(found[name]) if isinstance(found[name], dict) else found[name]
    skip = _skip(where, entry.pop("skip", None)) if isinstance(entry, dict) else ()
    entry = _entry(where, entry, ("item", "concept"), ("names",), shown=("skip",))
    for kind, known in (("item", items), ("concept", concepts)):
        if entry[kind] not in known:
            raise UsageError(f"{where}: no {kind} '{entry[kind]}'; there are: {', '.join(known) or 'none'}")
    if skip:
        check_one_video(entry["item"], where, videos_file)
    names = entry.get("names") or NONE
    return Applied(name, item_key(entry["item"]), item_key(entry["concept"]), skip, None if names == NONE else names)


def known_frames(item: str, concept: str, videos_file: Path = VIDEOS) -> list[int]:
    """Frames of an item that the concept was learned from: their numbers in the item's video.

    Raises:
        UsageError: there are some in an item of several videos, where `skip` cannot name them.
    """
    from pipeline.fewshot.references import frames_among
    from pipeline.media.pictures import read_image
    from pipeline.media.video import list_images, open_source

    folder = concept_of(concept, videos_file)[1].references / "images"
    images = [read_image(path) for path in list_images(folder)] if folder.is_dir() else []
    videos = [Path(video["path"]) for video in item_videos(item, videos_file)]
    found: list[int] = []
    for video in videos:
        if images and video.exists():
            found = frames_among(images, open_source(video).frames())
        if found and len(videos) > 1:
            raise UsageError(f"{videos_file}: concept '{concept}' is learned from frames of {video}; {_SEVERAL}")
    return found


def check_one_video(item: str, where: str, videos_file: Path = VIDEOS) -> None:
    """Refuse `skip` for an item of several videos: which of them it means, it cannot say.

    Raises:
        UsageError: begins with `where`.
    """
    if len(item_videos(item, videos_file)) > 1:
        raise UsageError(f"{where}: {_SEVERAL}")


_SEVERAL = "`skip` is for items of one video, so make an item of the one that it is about"


def is_applied(item: str, videos_file: Path = VIDEOS) -> bool:
    """Whether something is applied under that name; an item's key otherwise, or no videos.yaml at all."""
    return videos_file.is_file() and item_key(item) in read_part("applied", videos_file)


def applied_keys(videos_file: Path = VIDEOS) -> list[str]:
    """The names of all that is applied, sorted; raises as `applied_of`."""
    return [applied_of(name, videos_file).name for name in sorted(read_part("applied", videos_file))]


def _skip(where: str, numbers: Any) -> tuple[int, ...]:
    given = numbers or []
    if not isinstance(given, list) or not all(type(number) is int and number >= 0 for number in given):
        raise UsageError(f"{where}: `skip` must be a list of frame numbers from 0, like [0, 12], not {numbers!r}")
    return tuple(given)


def _entry(
    where: str, entry: Any, needed: tuple[str, ...], optional: tuple[str, ...] = (), shown: tuple[str, ...] = ()
) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected {' and '.join(f'`{name}`' for name in needed)}, not {entry!r}")
    for name in (*needed, *(name for name in optional if entry.get(name) is not None)):
        if not isinstance(entry.get(name), str):
            raise UsageError(f"{where}: `{name}` must be text, not {entry.get(name)!r}")
    unknown = [name for name in entry if name not in (*needed, *optional)]
    if unknown:
        raise UsageError(f"{where}: unknown entry '{unknown[0]}'; there are: {', '.join((*needed, *optional, *shown))}")
    return {**entry}
