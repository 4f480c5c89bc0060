"""Label maps that hold colours and come without a class list: which id each colour is. (An I/O module.)

Ids depend on the set of colours alone. Greys are ids stored as colours; colours of the DAVIS palette keep their places
in it, 255 as void included; any other set is numbered by (r, g, b), black being 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.media.pictures import VOID, Colour, davis_palette, read_colours
from pipeline.truth.class_list import ClassList, LabelClass, classes_of_ids

#: More colours are no labels: ids 0..254 and void.
MOST = 256


def classes_of_colours(files: Iterable[Path]) -> ClassList | None:
    """A class of every colour of some label maps, named after it; None where no file holds colours.

    Raises:
        DataError: an unreadable file, files of ids beside files of colours, or more than `MOST` colours.
    """
    found: set[Colour] = set()
    without: Path | None = None
    last: Path | None = None
    for file in files:
        colours = read_colours(file, MOST)
        if colours is None:
            without = without or file
        else:
            last = file
            found |= colours
        if last is not None and without is not None:
            raise DataError(f"{last}: holds colours, but {without} holds ids; save all label maps in one way")
        if len(found) > MOST:
            raise DataError(
                f"{file}: with it there are {len(found)} colours in the label maps: are their edges smoothed, or were "
                "they JPEGs? Save them as PNG without anti-aliasing"
            )
    return _numbered(found) if found else None


def _numbered(found: set[Colour]) -> ClassList:
    if all(red == green == blue for red, green, blue in found):
        listed = classes_of_ids({red for red, _, _ in found})
        greys = tuple(replace(entry, color=(entry.id,) * 3) for entry in listed.classes)
        return replace(listed, classes=greys, void_color=(VOID,) * 3 if listed.ignore else None)
    palette = {_as_colour(colour): number for number, colour in reversed(list(enumerate(davis_palette())))}
    rest = {colour: number for number, colour in enumerate(sorted(found - {(0, 0, 0)}), 1)}
    ids = palette if found <= palette.keys() else {(0, 0, 0): 0, **rest}
    void = next((colour for colour in found if ids[colour] == VOID), None)
    classes = sorted((ids[colour], colour) for colour in found - {void})
    named = tuple(LabelClass(number, "#{:02x}{:02x}{:02x}".format(*colour), colour) for number, colour in classes)
    return ClassList(named, () if void is None else (VOID,), void)


def _as_colour(values: np.ndarray) -> Colour:
    red, green, blue = (int(value) for value in values)
    return red, green, blue
