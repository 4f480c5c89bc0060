"""Plain folders: one per video.

    <video>/frames/*                     pictures
    <video>/labels/*.png                 label maps of some or all frames, or no such folder
    classes.json                         class list, or several by video name (pipeline/truth/class_list.py); optional,
                                         <video>/labels/classes.json wins
    <split>.txt                          video names

Without a split all folders with `frames` are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.listing import Video, pair_frames, read_names
from pipeline.errors import DataError
from pipeline.truth.annotations import is_placeholder
from pipeline.truth.class_list import read_classes
from pipeline.truth.colours import classes_of_colours


def videos(root: Path, split: str | None) -> Iterator[Video]:
    """The videos of a split, or all of them by name.

    Raises:
        DataError: no videos, a label map that belongs to no frame, or a folder of labels without any.
    """
    if split is None:
        names = sorted(path.parent.name for path in root.glob("*/frames"))
    else:
        names = read_names(root / f"{split}.txt")
    if not names:
        raise DataError(f"{root}: no <video>/frames here")
    classes = root / "classes.json"
    for name in names:
        labels = root / name / "labels"
        frames = pair_frames(root / name / "frames", labels)
        annotated = any(frame.labels for frame in frames)
        if not annotated and labels.is_dir() and not is_placeholder(labels):
            raise DataError(f"{labels}: no label PNGs in this folder; remove it if {name} has no ground truth")
        file = next((file for file in (labels / "classes.json", classes) if file.is_file()), None)
        maps = [frame.labels for frame in frames if frame.labels is not None]
        listed = read_classes(file, labels) if annotated and file else classes_of_colours(maps)
        yield Video(name, frames, None, listed)
