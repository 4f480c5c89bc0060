"""DAVIS 2016 (Perazzi et al., CVPR 2016) and 2017 (Pont-Tuset et al., 2017), 480p.

    JPEGImages/480p/<sequence>/*.jpg          24 frames per second
    Annotations/480p/<sequence>/*.png         every frame: object numbers, or 0 and 255 in the edition of 2016;
                                              of test-dev and test-challenge the first frame only
    ImageSets/2016/<split>.txt, ImageSets/2017/<split>.txt      names
    ImageSets/480p/<split>.txt                                  the edition of 2016: pairs of paths, a frame a line

2016 knows one object: all numbers above 0 are it, in either edition. 2017 keeps them apart: each object is a class of
its own, named after its sequence, because scores pool the classes of one name; 255 is void.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.datasets.listing import Frame, Video, pair_frames, read_names, require_annotations, require_first
from pipeline.errors import DataError
from pipeline.media.pictures import VOID, read_label_png
from pipeline.truth.class_list import ClassList, LabelClass, parse_classes

FPS = 24.0
#: Splits whose ground truth is kept back: the first frame alone has a mask.
FIRST_ONLY = ("test-dev", "test-challenge")
FOREGROUND = ClassList(
    (LabelClass(0, "background", (0, 0, 0)), LabelClass(1, "foreground", (128, 0, 0))),
    ignore=(),
    values={value: min(value, 1) for value in range(256)},
)


def videos(root: Path, split: str | None, year: int) -> Iterator[Video]:
    """The sequences of a split.

    Raises:
        DataError: a missing file, or a frame without a label map.
    """
    for name in _sequences(root / "ImageSets", split, year):
        labels = root / "Annotations" / "480p" / name
        frames = pair_frames(root / "JPEGImages" / "480p" / name, labels)
        if split in FIRST_ONLY:
            require_first(frames, labels)
        else:
            require_annotations(frames, labels)
        yield Video(name, frames, FPS, FOREGROUND if year == 2016 else objects_of(name, frames))


def objects_of(sequence: str, frames: Sequence[Frame]) -> ClassList:
    """The objects of all frames; the first need not show every one."""
    found = {0}.union(*(np.unique(read_label_png(frame.labels)).tolist() for frame in frames if frame.labels)) - {VOID}
    names = {number: f"{sequence} {number}" if number else "background" for number in sorted(found)}
    return parse_classes({"classes": [{"id": number, "name": name} for number, name in names.items()]})


def _sequences(sets: Path, split: str | None, year: int) -> list[str]:
    listed = sets / str(year) / f"{split}.txt"
    pairs = sets / "480p" / f"{split}.txt"
    if year == 2016 and not listed.is_file() and pairs.is_file():
        lines = read_names(pairs)
        sequences = [PurePosixPath(line.split()[0]).parent.name for line in lines]
        if "" in sequences:
            raise DataError(
                f"{pairs}: expected lines like '/JPEGImages/480p/camel/00000.jpg /Annotations/480p/camel/00000.png', "
                f"found '{lines[sequences.index('')]}'"
            )
        return list(dict.fromkeys(sequences))
    return read_names(listed)
