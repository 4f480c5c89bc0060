"""Ground truth from a folder of label PNGs, matched to a clip's frames by file stem.

Pixel values are class ids; palettes are for viewing only. A *class list* is a JSON file

    {"classes": [{"id": 0, "name": "sky", "color": [70, 130, 180]}, ...], "ignore": [255]}

in which `color` may be left out, a class may be just its name (its id is then its position), and `void_id`
(with `void_color`) may stand instead of `ignore`. One file may hold several lists by name,
{"dog": {"classes": ...}, "camel": ...}: `classes.json#dog` picks one; without the `#` the one named like a
folder on the ground truth's path is taken. Without `ignore` and `void_id`, 255 is ignored unless it is a
class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.pictures import Colour, davis_palette, read_label_png

#: The value that every common data set uses for unlabelled pixels.
VOID = 255


@dataclass(frozen=True)
class LabelClass:
    """One class: the id in label maps, a name, a colour (r, g, b) to show it in."""

    id: int
    name: str
    color: Colour


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set, the ids that no metric counts, and the colour that means "ignored"."""

    classes: tuple[LabelClass, ...]
    ignore: tuple[int, ...] = (VOID,)
    void_color: Colour | None = None

    @property
    def ids(self) -> frozenset[int]:
        """Every value that a label map may hold."""
        return frozenset({entry.id for entry in self.classes} | set(self.ignore))

    @property
    def colours(self) -> dict[int, Colour]:
        """id -> colour, for label maps that are stored as colours."""
        void = {self.ignore[0]: self.void_color} if self.void_color is not None and self.ignore else {}
        return {**{entry.id: entry.color for entry in self.classes}, **void}


@dataclass(frozen=True)
class Annotations:
    """The checked files of a ground truth, read one at a time by those who cannot hold all of it.

    Attributes:
        files, indices: the label PNGs and the clip positions of their frames, ascending.
        size: (H0, W0).
        dtype: "uint8" or "uint16", whichever holds the largest id.
        classes: what the ids mean.
        ignore: ids that no metric counts.
        digest: SHA-256 (hex) of the label values.
    """

    files: tuple[Path, ...]
    indices: tuple[int, ...]
    size: tuple[int, int]
    dtype: str
    classes: tuple[LabelClass, ...]
    ignore: tuple[int, ...]
    digest: str = ""
    colours: Mapping[int, Colour] | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Label maps start..stop, (a, H0, W0)."""
        maps = [read_label_png(file, self.colours).astype(self.dtype) for file in self.files[start:stop]]
        return np.stack(maps) if maps else np.zeros((0, *self.size), self.dtype)


def no_annotations(size: tuple[int, int]) -> Annotations:
    """The ground truth of a video that has none."""
    return Annotations((), (), size, "uint8", (), (VOID,))


def find_annotations(
    folder: Path, names: Sequence[str], size: tuple[int, int], classes: ClassList | None = None
) -> Annotations:
    """Match the PNGs of a folder to frame names, and check each of those used.

    Args:
        names: the clip's frame names; frames without a PNG are simply not annotated, PNGs of frames outside
            the clip are left alone.
        size: (H0, W0) of the source's frames.
        classes: None makes a class of every id found but 255, which is ignored (in masks of 0 and 255 alone,
            255 is the foreground class).

    Raises:
        DataError: no such folder, no PNG named like a frame, another size than the frames', or a value that
            is neither a class nor ignored.
    """
    files, indices = _match(Path(folder), names)
    colours = classes.colours if classes else None
    found: set[int] = set()
    digest = hashlib.sha256()
    for file in files:
        labels = read_label_png(file, colours)
        if labels.shape != tuple(size):
            raise DataError(
                f"{file}: the label map is {labels.shape[1]}x{labels.shape[0]} pixels, "
                f"the frames are {size[1]}x{size[0]}"
            )
        values = {int(value) for value in np.unique(labels)}
        if classes and not values <= classes.ids:
            raise DataError(
                f"{file}: holds the value {min(values - classes.ids)}, which is neither a class nor ignored; "
                "add it to the class list (`classes` or `ignore`)"
            )
        found |= values
        digest.update(labels.astype(np.uint16).tobytes())
    if classes is None:
        classes = _classes_of(found)
    return Annotations(
        tuple(files),
        tuple(indices),
        (size[0], size[1]),
        "uint16" if max(found, default=0) > 255 else "uint8",
        classes.classes,
        classes.ignore,
        digest.hexdigest(),
        colours,
    )


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
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such class list") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a JSON class list ({error})") from error
    if isinstance(content, dict) and "classes" not in content:
        content = _pick(path, content, name, near)
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: not a class list ({type(error).__name__}: {error}); expected "
            '{"classes": [{"id": 0, "name": "sky"}, ...], "ignore": [255]}'
        ) from error


def is_placeholder(folder: Path) -> bool:
    """Whether a folder stands for "there is no ground truth": it holds a README and nothing else."""
    entries = [path for path in Path(folder).iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    return bool(entries) and all(path.stem.upper() == "README" for path in entries)


def _match(folder: Path, names: Sequence[str]) -> tuple[list[Path], list[int]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of ground truth")
    pngs: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == ".png" and not path.name.startswith("."):
            other = pngs.setdefault(path.stem, path)
            if other is not path:
                raise DataError(f"{folder}: both {other.name} and {path.name} are for frame '{path.stem}'")
    if not pngs:
        raise DataError(f"{folder}: no label PNGs in this folder")
    matches = [(pngs[name], index) for index, name in enumerate(names) if name in pngs]
    if not matches:
        raise DataError(
            f"{folder}: none of its {len(pngs)} PNGs has the name of a frame; "
            f"frames are named like '{names[0]}', PNGs like '{next(iter(pngs))}'"
        )
    return [file for file, _ in matches], [index for _, index in matches]


def _classes_of(found: set[int]) -> ClassList:
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


def _parse(content: Mapping[str, Any]) -> ClassList:
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
    void = content.get("void_color")
    return ClassList(tuple(classes), ignore, _colour(void) if void is not None else None)


def _colour(values: Sequence[int]) -> Colour:
    red, green, blue = (int(value) for value in values)
    return red, green, blue
