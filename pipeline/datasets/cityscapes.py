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
from pipeline.truth import ClassList, read_classes

CLASS_LIST = Path(__file__).parent / "classes" / "cityscapes.json"
FPS = 17.0
FRAMES = 30
#: Position of the annotated frame in its snippet, from 0.
ANNOTATED = 19


def videos(root: Path, split: str | None) -> Iterator[Video]:
    """The snippets of a split, by city, sequence and frame.

    Raises:
        DataError: a missing file or folder.
    """
    labels, classes = _label_maps(root / "gtFine" / str(split))
    for file in labels:
        parts = re.fullmatch(r"(.+_\d+)_(\d+)_gtFine_label(Train)?Ids", file.stem)
        if parts is None:
            raise DataError(f"{file}: expected <city>_<sequence>_<frame>_gtFine_labelIds.png")
        sequence, digits = parts[1], len(parts[2])
        annotated = int(parts[2])
        folder = root / "leftImg8bit_sequence" / str(split) / file.parent.name
        frames = []
        for number in range(annotated - ANNOTATED, annotated - ANNOTATED + FRAMES):
            name = f"{sequence}_{number:0{digits}}"
            image = folder / f"{name}_leftImg8bit.png"
            if not image.is_file():
                raise DataError(
                    f"{image}: no such file, but {file.name} is frame {ANNOTATED + 1} of a snippet of {FRAMES} that "
                    "has it; unpack leftImg8bit_sequence_trainvaltest.zip"
                )
            frames.append(Frame(name, image, file if number == annotated else None))
        yield Video(f"{sequence}_{parts[2]}", tuple(frames), FPS, classes)


def _label_maps(folder: Path) -> tuple[list[Path], ClassList]:
    classes = read_classes(CLASS_LIST)
    if files := sorted(folder.glob("*/*_gtFine_labelIds.png")):
        return files, classes
    if files := sorted(folder.glob("*/*_gtFine_labelTrainIds.png")):
        return files, replace(classes, values=None)
    raise DataError(f"{folder}: no <city>/*_gtFine_labelIds.png here; unpack gtFine_trainvaltest.zip")
