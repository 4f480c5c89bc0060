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
from stages.common.layout import NONE, VIDEOS, Place, item_key, place, read_part, videos_of


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
    """

    name: str
    item: str
    concept: str

    def videos(self) -> list[str | None]:
        """Names of the item's videos; `[None]` for one video."""
        return videos_of(self.item)

    def place(self, stage: str, video: str | None) -> Place:
        """Where a stage keeps one of these videos: what is computed of the item alone lies under the item's key."""
        return place(stage, self.item if stage in ("ingest", "extract") else self.name, video)


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
    entry = _entry(where, found[name], ("item", "concept"))
    for kind, known in (("item", items), ("concept", concepts)):
        if entry[kind] not in known:
            raise UsageError(f"{where}: no {kind} '{entry[kind]}'; there are: {', '.join(known) or 'none'}")
    return Applied(name, item_key(entry["item"]), item_key(entry["concept"]))


def is_applied(item: str, videos_file: Path = VIDEOS) -> bool:
    """Whether something is applied under that name; an item's key otherwise, or no videos.yaml at all."""
    return videos_file.is_file() and item_key(item) in read_part("applied", videos_file)


def applied_keys(videos_file: Path = VIDEOS) -> list[str]:
    """The names of all that is applied, sorted; raises as `applied_of`."""
    return [applied_of(name, videos_file).name for name in sorted(read_part("applied", videos_file))]


def _entry(where: str, entry: Any, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected {' and '.join(f'`{name}`' for name in needed)}, not {entry!r}")
    for name in (*needed, *(name for name in optional if entry.get(name) is not None)):
        if not isinstance(entry.get(name), str):
            raise UsageError(f"{where}: `{name}` must be text, not {entry.get(name)!r}")
    unknown = [name for name in entry if name not in (*needed, *optional)]
    if unknown:
        raise UsageError(f"{where}: unknown entry '{unknown[0]}'; there are: {', '.join((*needed, *optional))}")
    return {**entry}
