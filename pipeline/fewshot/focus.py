"""Boxes around what a first look finds, so that small things fill the picture (SMITE, section 7.5).

A box is stored as (top, bottom, left, right) in pixels of the frames at model size, as `views` has it.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pipeline.backbone import Box
from pipeline.fewshot.attention_maps import Grid


def boxes_around(numbers: Tensor, background: int) -> np.ndarray:
    """(f, 4) int32: the smallest box around all that is not background in each frame; 0, 0, 0, 0 where nothing is.

    Args:
        numbers: (f, H, W), the segment of each pixel.
        background: the number of that segment.
    """
    foreground = (numbers != background).cpu()
    nothing = Box(0, 0, 0, 0)
    boxes = (Box.around(frame) if frame.any() else nothing for frame in foreground)
    return np.array([[box.top, box.bottom, box.left, box.right] for box in boxes], np.int32).reshape(-1, 4)


def has_box(boxes: np.ndarray, short: bool = False) -> np.ndarray:
    """(f,) bool: whether something was found in a frame, of boxes (f, 4) as `boxes_around` has them.

    Args:
        short: boxes lose their last row and column (`smoothed`), so that one row or one column is nothing.
    """
    least = 2 if short else 1
    return (boxes[:, 1] - boxes[:, 0] >= least) & (boxes[:, 3] - boxes[:, 2] >= least)


def smoothed(boxes: np.ndarray, margin: float, window: int, size: Grid, short: bool = False) -> np.ndarray:
    """The boxes (f, 4) int32 that a whole clip is seen in: with a margin, each side the median over the frames around.

    The window is as long after a frame as before it, and so shorter towards the ends of the clip: a box follows what
    moves. Frames in which nothing was found keep the whole frame, and do not count for those around. Sides are rounded
    outwards, and end at the frame's border.

    Args:
        boxes: (f, 4) of `boxes_around`, of the whole clip.
        margin: added on each side, as a share of the box's height or width.
        window: frames, odd; 1 = each box as it is.
        size: (H, W) of the frames.
        short: as the authors' code has boxes: without their last row and column, and with room that is rounded down to
            whole pixels. What has one row or column alone counts as not found; there, the code fails.
    """
    there = has_box(boxes, short)
    if short:
        boxes = boxes - np.array([0, 1, 0, 1], np.int32)
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    room = margin * np.stack([-heights, heights, -widths, widths], axis=1)
    grown = boxes + (np.trunc(room) if short else room)
    result = np.tile(np.array([0, size[0], 0, size[1]], np.int32), (len(boxes), 1))
    for frame in np.flatnonzero(there).tolist():
        half = min(window // 2, frame, len(boxes) - 1 - frame)
        around = slice(frame - half, frame + half + 1)
        top, bottom, left, right = np.median(grown[around][there[around]], axis=0)
        result[frame] = (
            max(0, np.floor(top)), min(size[0], np.ceil(bottom)), max(0, np.floor(left)), min(size[1], np.ceil(right))
        )  # fmt: skip
    return result
