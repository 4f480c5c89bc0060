"""Masks as PNGs: one per segment and frame, or one palette picture per frame as DAVIS has them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.export.labelled_clip import Advance, LabelledClip, nameless
from pipeline.media.pictures import write_image, write_label_png
from pipeline.naming.segments import Segment

#: A segment of this name is what DAVIS calls 0.
BACKGROUND = "background"
#: Objects of a palette picture; 0 is the background, and 255 means that a pixel does not count.
MOST_OBJECTS = 254


def write_masks(clip: LabelledClip, folder: Path, advance: Advance) -> None:
    """masks/LABEL-NAME/FRAME.png for each segment and frame, also where it is absent: 255 in the segment, else 0."""
    places = {segment.id: folder / "masks" / mask_folder(segment) for segment in clip.segments}
    for frame, plane in zip(clip.frames, clip.planes(), strict=True):
        for label, place in places.items():
            write_image(place / f"{frame}.png", np.where(plane == label, 255, 0).astype(np.uint8))
        advance(1)


def mask_folder(segment: Segment) -> str:
    """The name of a segment's folder: its label and what a file's name may hold of its name."""
    name = re.sub(r"[^\w.-]+", "-", str(segment.name))[:60].strip("-.")
    return f"{segment.id}-{name}" if name and segment.name != nameless(segment.id) else str(segment.id)


def davis_numbers(clip: LabelledClip) -> dict[int, int]:
    """Label -> object 1, 2, ... in the order of labels; what is called background is 0, as is what is not chosen.

    Raises:
        DataError: more objects than a palette picture holds.
    """
    objects = [segment.id for segment in clip.segments if str(segment.name).casefold() != BACKGROUND]
    if len(objects) > MOST_OBJECTS:
        raise DataError(f"davis: {len(objects)} segments, at most {MOST_OBJECTS} fit; choose some with --segment")
    return {label: number for number, label in enumerate(objects, 1)}


def write_davis(clip: LabelledClip, folder: Path, advance: Advance) -> None:
    """Annotations/VIDEO/FRAME.png: palette pictures whose values are the objects of `davis_numbers`."""
    table = np.zeros(65536, np.uint8)
    for label, number in davis_numbers(clip).items():
        table[label] = number
    for frame, plane in zip(clip.frames, clip.planes(), strict=True):
        write_label_png(folder / "Annotations" / clip.name / f"{frame}.png", table[plane])
        advance(1)
