"""The ground truth of a SMITE-50 video (Alimohammadi et al., ICLR 2025). (An I/O module.)

    FOLDER/frames_numbers.txt       its first line: a list of frame numbers in brackets
    FOLDER/<frame>/*.png            per listed frame, in natural order: one mask per part, or one sub-folder of them

Parts are numbered from 1 in natural order of their files' names, as in the authors' code; what no part covers is
background, 0; where masks overlap the smaller one wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.fewshot.masks import combined, masks_of_folder, natural_order, read_mask
from pipeline.fewshot.segments import BACKGROUND
from pipeline.media.resize import resize_nearest

NUMBERS = "frames_numbers.txt"


@dataclass(frozen=True, eq=False)
class Smite50Truth:
    """Label maps of the annotated frames.

    Attributes:
        labels: (a, H, W) u8.
        frames: numbers of these frames in the video.
        parts: names by number, the background first.
    """

    labels: np.ndarray
    frames: tuple[int, ...]
    parts: tuple[str, ...]


def read_smite50(folder: Path, size: tuple[int, int] | None = None) -> Smite50Truth:
    """Read the ground truth of a video.

    Args:
        size: (H, W) to bring the label maps to, by nearest neighbour (the published scores are at 512x512); None leaves
            them, and they must be equal.

    Raises:
        DataError: a missing or other list, another number of folders, frames with other parts, masks of other sizes.
    """
    frames = _frame_numbers(folder / NUMBERS)
    places = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: natural_order(path.name))
    if len(places) != len(frames):
        raise DataError(f"{folder}: {len(places)} folders of masks, but {NUMBERS} lists {len(frames)} frames")
    parts: tuple[str, ...] = ()
    maps = []
    for place in places:
        masks = masks_of_folder(place)
        parts = parts or tuple(masks)
        if tuple(masks) != parts:
            raise DataError(f"{place}: has the parts {', '.join(masks)}; the first frame has {', '.join(parts)}")
        drawn = {number: read_mask(path) for number, path in enumerate(masks.values(), start=1)}
        shapes = {mask.shape for mask in drawn.values()}
        if len(shapes) > 1:
            raise DataError(f"{place}: masks of different sizes: {', '.join(map(str, sorted(shapes)))}")
        labels = combined(drawn, (drawn[1].shape[0], drawn[1].shape[1]), 0)
        maps.append(labels if size is None else resize_nearest(labels, size))
        if maps[-1].shape != maps[0].shape:
            raise DataError(f"{place}: masks of {maps[-1].shape}, the first frame's are {maps[0].shape}; give a size")
    return Smite50Truth(np.stack(maps), frames, (BACKGROUND, *parts))


def _frame_numbers(path: Path) -> tuple[int, ...]:
    try:
        first = (path.read_text().splitlines() or [""])[0]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); it lists the annotated frames, as in [0, 5, 10]") from error
    listed = re.search(r"\[([\d,\s]+)\]", first)
    if listed is None:
        raise DataError(f"{path}: expected a list of frame numbers as in [0, 5, 10], found '{first[:40]}'")
    return tuple(int(number) for number in re.findall(r"\d+", listed[1]))
