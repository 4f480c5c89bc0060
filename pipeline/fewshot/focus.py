"""Boxes around what a first look finds, so that small things fill the picture (SMITE, section 7.5).

A *box* is rows top..bottom - 1 and columns left..right - 1 of a frame, stored as (top, bottom, left, right) in pixels
of the frames at model size. What is seen of a frame is its box, squeezed to the size of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Box
from pipeline.fewshot.attention_maps import Grid
from pipeline.media.resize import resize_frame
from pipeline.tracking.tracks import Tracks, frame_tracks, grid_points, to_cells, to_pixels


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


def smoothed(boxes: np.ndarray, margin: float, window: int, size: Grid) -> np.ndarray:
    """The boxes (f, 4) int32 that a whole clip is seen in: with a margin, each side the median over the frames around.

    The window is as long after a frame as before it, and so shorter towards the ends of the clip: a box follows what
    moves. Frames in which nothing was found keep the whole frame, and do not count for those around. Sides are rounded
    outwards, and end at the frame's border.

    Args:
        boxes: (f, 4) of `boxes_around`, of the whole clip.
        margin: added on each side, as a share of the box's height or width.
        window: frames, odd.
        size: (H, W) of the frames.
    """
    found = boxes[:, 1] > 0
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    grown = boxes + margin * np.stack([-heights, heights, -widths, widths], axis=1)
    result = np.tile(np.array([0, size[0], 0, size[1]], np.int32), (len(boxes), 1))
    for frame in np.flatnonzero(found).tolist():
        half = min(window // 2, frame, len(boxes) - 1 - frame)
        around = slice(frame - half, frame + half + 1)
        top, bottom, left, right = np.median(grown[around][found[around]], axis=0)
        result[frame] = (
            max(0, np.floor(top)), min(size[0], np.ceil(bottom)), max(0, np.floor(left)), min(size[1], np.ceil(right))
        )  # fmt: skip
    return result


def on_picture(boxes: np.ndarray, size: Grid, picture: Grid) -> list[Box]:
    """Boxes (f, 4) of frames of a size (H, W) on a picture of another (H', W'), rounded outwards."""
    (height, width), (tall, wide) = size, picture
    return [
        Box(top * tall // height, -(-bottom * tall // height), left * wide // width, -(-right * wide // width))
        for top, bottom, left, right in boxes.tolist()
    ]


@dataclass(frozen=True, eq=False)
class Focus:
    """What is seen of a clip's frames.

    Attributes:
        boxes: (F, 4) int32 of all of them.
        size: (H, W) of the frames, in whose pixels they are.
        background: number of the segment that everything outside a box is.
    """

    boxes: np.ndarray
    size: Grid
    background: int

    def box(self, frame: int) -> Box | None:
        """That of a frame; None = the whole frame."""
        box = Box(*map(int, self.boxes[frame]))
        return None if box == Box(0, self.size[0], 0, self.size[1]) else box

    def cut(self, frame: int, image: np.ndarray) -> np.ndarray:
        """What is seen (H, W, 3) u8 of an image of that size."""
        box = self.box(frame)
        return image if box is None else resize_frame(image[box.top : box.bottom, box.left : box.right], self.size)

    def on(self, picture: Grid, frames: range) -> list[Box]:
        """The boxes of some frames on a picture of another size (H', W')."""
        return on_picture(self.boxes[frames.start : frames.stop], self.size, picture)

    def tracks(self, tracks: Tracks, grid: Grid, frames: range) -> Tracks:
        """Where the points of boxes go, in cells of a grid that is laid over each box; those outside are not visible.

        A point of a box moves as the cell of the whole frame does in which it lies.

        Args:
            tracks: of these frames, on the same grid (h, w) laid over whole frames.
            frames: as `tracks.start` counts them.
        """
        found = []
        for number, start, yx, visible in zip(frames, tracks.start, tracks.yx, tracks.visible, strict=True):
            window = range(int(start), int(start) + len(yx))
            corners, extents = self._places(window)
            own = number - window.start
            points = corners[own] + to_pixels(grid_points(grid), (1, 1), grid) * extents[own]
            cells = to_cells(points, self.size, grid).clip(0, np.array(grid) - 1)
            index = cells[:, 0] * grid[1] + cells[:, 1]
            there = to_pixels(yx[:, index], self.size, grid) + points - to_pixels(cells, self.size, grid)
            inside = to_cells((there - corners[:, None]) / extents[:, None], (1, 1), grid)
            found.append(frame_tracks(number, window, inside, visible[:, index], grid))
        return Tracks.of(found)

    def _places(self, frames: range) -> tuple[np.ndarray, np.ndarray]:
        """The upper left corners (w, 2) of boxes, and their heights and widths (w, 2)."""
        boxes = self.boxes[frames.start : frames.stop]
        corners = boxes[:, [0, 2]]
        return corners, boxes[:, [1, 3]] - corners


def put_back(numbers: Tensor, box: Box, size: Grid, background: int) -> Tensor:
    """The segments (H, W) of a frame, of those in its box (h', w')."""
    whole = torch.full(size, background, dtype=numbers.dtype, device=numbers.device)
    box.of(whole)[:] = numbers
    return whole
