"""Cityscapes (Cordts et al., CVPR 2016): snippets of 30 frames, the 20th of which is annotated.

    leftImg8bit_sequence/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit.png      17 frames per second
    gtFine/<split>/<city>/<city>_<seq>_<frame>_gtFine_labelIds.png                or ..._labelTrainIds.png

A city's folder holds the frames of all its snippets. A snippet is named after its annotated frame. Label ids become
the 19 train ids through the class list's `values`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.datasets.listing import Frame, Video
from pipeline.errors import DataError
from pipeline.truth.class_list import ClassList, read_classes

CLASS_LIST = Path(__file__).parent / "classes" / "cityscapes.json"
FPS = 17.0
FRAMES = 30
#: Position of the annotated frame in its snippet, from 0.
ANNOTATED = 19
IMAGE = "_leftImg8bit.png"


def videos(root: Path, split: str | None) -> Iterator[Video]:
    """The snippets of a split, by city, sequence and frame.

    Raises:
        DataError: a missing file or folder.
    """
    labels, classes = _label_maps(root / "gtFine" / str(split))
    images = root / "leftImg8bit_sequence" / str(split)
    snippets = [_snippet(file, images / file.parent.name) for file in labels]
    _check_none_left(images, {frame.image for frames in snippets for frame in frames})
    for file, frames in zip(labels, snippets, strict=True):
        for frame in frames:
            if not frame.image.is_file():
                raise DataError(
                    f"{frame.image}: no such file, but {file.name} is frame {ANNOTATED + 1} of a snippet of {FRAMES} "
                    "that has it; unpack leftImg8bit_sequence_trainvaltest.zip"
                )
        yield Video(frames[ANNOTATED].name, frames, FPS, classes)


def _snippet(labels: Path, folder: Path) -> tuple[Frame, ...]:
    """The frames around an annotated one."""
    parts = re.fullmatch(r"(.+_\d+)_(\d+)_gtFine_label(Train)?Ids", labels.stem)
    if parts is None:
        raise DataError(f"{labels}: expected <city>_<sequence>_<frame>_gtFine_labelIds.png")
    first, digits = int(parts[2]) - ANNOTATED, len(parts[2])
    names = [f"{parts[1]}_{number:0{digits}}" for number in range(first, first + FRAMES)]
    return tuple(
        Frame(name, folder / f"{name}{IMAGE}", labels if position == ANNOTATED else None)
        for position, name in enumerate(names)
    )


def _check_none_left(images: Path, used: set[Path]) -> None:
    left = sorted(set(images.glob(f"*/[!.]*{IMAGE}")) - used)
    if left:
        raise DataError(
            f"{left[0]}: lies in no snippet of {FRAMES} frames with a label map of its frame {ANNOTATED + 1} "
            f"({len(left)} frames do not); unpack gtFine_trainvaltest.zip again, or take these frames away"
        )


def _label_maps(folder: Path) -> tuple[list[Path], ClassList]:
    classes = read_classes(CLASS_LIST)
    if files := sorted(folder.glob("*/[!.]*_gtFine_labelIds.png")):
        return files, classes
    if files := sorted(folder.glob("*/[!.]*_gtFine_labelTrainIds.png")):
        return files, replace(classes, values=None)
    raise DataError(f"{folder}: no <city>/*_gtFine_labelIds.png here; unpack gtFine_trainvaltest.zip")
