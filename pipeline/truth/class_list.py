"""Class lists: what the values of label maps mean.

Pixel values are class ids; palettes are for viewing only. A *class list* is a JSON file

    {"classes": [{"id": 0, "name": "sky", "color": [70, 130, 180]}, ...], "ignore": [255]}

in which `color` may be left out, a class may be just its name (its id is then its position), and `void_id`
(with `void_color`) may stand instead of `ignore`. Where the files store other values than the ids,
`"values": {"7": 0, "8": 1, "0": 255}` says which id each stored value means; a value that is not listed is
then unknown. One file may hold several lists by name,
{"dog": {"classes": ...}, "camel": ...}: `classes.json#dog` picks one; without the `#` the one named like a
folder on the ground truth's path is taken. Without `ignore` and `void_id`, 255 is ignored unless it is a
class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.media.pictures import VOID, Colour, davis_palette, read_label_png

#: What a stored value becomes that the class list does not know.
UNKNOWN = 65535
#: No class list is longer; a device file that never ends would fill the memory.
MOST_CHARACTERS = 10_000_000


@dataclass(frozen=True)
class LabelClass:
    """One class: the id in label maps, a name, a colour (r, g, b) to show it in."""

    id: int
    name: str
    color: Colour


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set and how its files store them.

    Attributes:
        ignore: ids that no metric counts.
        void_color: the colour that means "ignored".
        values: stored value -> id, where files do not store the ids themselves; values outside it are unknown.
    """

    classes: tuple[LabelClass, ...]
    ignore: tuple[int, ...] = (VOID,)
    void_color: Colour | None = None
    values: Mapping[int, int] | None = None

    @property
    def ids(self) -> frozenset[int]:
        """Every id that a label map may hold."""
        return frozenset({entry.id for entry in self.classes} | set(self.ignore))

    @property
    def colours(self) -> dict[int, Colour]:
        """id -> colour, for label maps that are stored as colours."""
        void = {self.ignore[0]: self.void_color} if self.void_color is not None and self.ignore else {}
        return {**{entry.id: entry.color for entry in self.classes}, **void}

    def read(self, file: Path) -> np.ndarray:
        """A label map (H, W) as ids, u8 or u16; a stored value that `values` does not list becomes `UNKNOWN`.

        Raises:
            DataError: as `read_label_png`.
        """
        return self.decode(self.read_stored(file))

    def read_stored(self, file: Path) -> np.ndarray:
        """A label map (H, W) as stored; colours become the stored value of their class."""
        if self.values is None:
            return read_label_png(file, self.colours)
        stored = {number: value for value, number in sorted(self.values.items(), reverse=True)}
        return read_label_png(file, {stored[number]: colour for number, colour in self.colours.items()})

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """The ids of stored values."""
        if self.values is None:
            return stored
        table = np.full(65536, UNKNOWN, np.uint16)
        table[list(self.values)] = list(self.values.values())
        return table[stored]


def read_classes(reference: str | Path, near: Path | None = None) -> ClassList:
    """Read a class list (formats: module docstring).

    Args:
        reference: the JSON file, with `#name` behind it when it holds several lists.
        near: the folder that the list is for; a list named like one of its parts is taken when none is named.

    Raises:
        DataError: missing file, not a class list, an unknown name, or an id that occurs twice.
    """
    text, _, name = str(reference).partition("#")
    path = Path(text)
    try:
        with path.open(encoding="utf-8") as stream:
            written = stream.read(MOST_CHARACTERS + 1)
        if len(written) > MOST_CHARACTERS:
            raise DataError(f"{path}: not a class list, it is longer than {MOST_CHARACTERS} characters")
        content = json.loads(written)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such class list") from error
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON class list ({error})") from error
    if isinstance(content, dict) and "classes" not in content:
        content = _pick(path, content, name, near)
    try:
        return parse_classes(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path}: not a class list ({type(error).__name__}: {error}); expected "
            '{"classes": [{"id": 0, "name": "sky"}, ...], "ignore": [255]}'
        ) from error


def write_classes(path: Path, listed: ClassList) -> Path:
    """Write a class list as `read_classes` reads it."""
    path.write_text(json.dumps(class_list_record(listed)) + "\n")
    return path


def class_list_record(listed: ClassList) -> dict[str, Any]:
    """What truth.zarr keeps of a class list, in the file's format."""
    record: dict[str, Any] = {"classes": [dict(vars(entry)) for entry in listed.classes], "ignore": list(listed.ignore)}
    if listed.void_color is not None:
        record["void_color"] = list(listed.void_color)
    if listed.values is not None:
        record["values"] = {str(value): number for value, number in listed.values.items()}
    return record


def classes_of_ids(found: set[int]) -> ClassList:
    """A class of every id, named by its number. 255 is ignored, but in masks of 0 and 255 alone it is a class."""
    palette = davis_palette()
    ignore = () if found == {0, VOID} else (VOID,)
    entries = (LabelClass(value, str(value), _colour(palette[value % 256])) for value in sorted(found - set(ignore)))
    return ClassList(tuple(entries), ignore)


def _pick(path: Path, content: Mapping[str, Any], name: str, near: Path | None) -> Any:
    if name:
        if name not in content:
            raise DataError(f"{path}: no class list named '{name}'; there are: {', '.join(content)}")
        return content[name]
    parts = reversed(near.parts) if near else ()
    found = next((part for part in parts if part in content), None)
    if found is None:
        example = f"{path.name}#{next(iter(content), 'name')}"
        raise DataError(f"{path}: holds several class lists; name one, e.g. {example}")
    return content[found]


def parse_classes(content: Mapping[str, Any]) -> ClassList:
    """The class list of a mapping in the file's format (of truth.zarr's attributes too).

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: it is no class list.
    """
    palette = davis_palette()
    classes = []
    for position, entry in enumerate(content["classes"]):
        entry = {"name": entry} if isinstance(entry, str) else entry
        number = int(entry.get("id", position))
        colour = _colour(entry.get("color", palette[number % 256]))
        classes.append(LabelClass(number, str(entry["name"]), colour))
    ids = [entry.id for entry in classes]
    if not classes or len(set(ids)) < len(ids) or not 0 <= min(ids) <= max(ids) <= 65535:
        raise ValueError("class ids must be there, different, and in 0..65535")
    if "ignore" in content:
        ignore = tuple(int(value) for value in content["ignore"])
    elif content.get("void_id") is not None:
        ignore = (int(content["void_id"]),)
    else:
        ignore = () if "void_id" in content or VOID in ids else (VOID,)
    if not all(0 <= value <= 65535 for value in ignore):
        raise ValueError("ignored ids must be in 0..65535")
    void = content.get("void_color")
    listed = ClassList(tuple(classes), ignore, _colour(void) if void is not None else None)
    return replace(listed, values=_stored_values(content["values"], listed.ids)) if "values" in content else listed


def _stored_values(content: Mapping[str, Any], ids: frozenset[int]) -> dict[int, int]:
    values = {int(value): int(number) for value, number in content.items()}
    if set(values.values()) != ids or not 0 <= min(values) <= max(values) <= 65535:
        raise ValueError("`values` must give each class and each ignored id a stored value in 0..65535, and no other")
    return values


def _colour(values: Sequence[int]) -> Colour:
    red, green, blue = (int(value) for value in values)
    if not 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
        raise ValueError("colours must be three numbers in 0..255")
    return red, green, blue
