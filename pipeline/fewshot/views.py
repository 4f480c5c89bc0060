"""Views: the parts of a clip's frames that are looked at, each as large as the whole (SMITE, section 7.5).

A *box* is rows top..bottom - 1 and columns left..right - 1 of a frame, stored as (top, bottom, left, right) in pixels
of the frames at model size. A `View` has a box for each frame: around what a first look finds (`focus`), or the same
part of all frames, one of those that `Patches` lays over them.

Maps lie on a grid of what is *seen* at once (h, w), those of whole frames on their *canvas* (h', w'), which is finer
where frames are seen in crops. A `grid` is that of the points of tracks, (h, w) as well, laid over what is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Box
from pipeline.fewshot.attention_maps import Grid
from pipeline.media.resize import resize_frame
from pipeline.parameters import ApplyParams
from pipeline.tracking.tracks import Tracks, frame_tracks, grid_points, to_cells, to_pixels


def on_picture(boxes: np.ndarray, size: Grid, picture: Grid) -> list[Box]:
    """Boxes (f, 4) of frames of a size (H, W) on a picture of another (H', W'), rounded outwards."""
    (height, width), (tall, wide) = size, picture
    return [
        Box(top * tall // height, -(-bottom * tall // height), left * wide // width, -(-right * wide // width))
        for top, bottom, left, right in boxes.tolist()
    ]


@dataclass(frozen=True, eq=False)
class View:
    """What is seen of a clip's frames at once: a box of each, squeezed to the size of the whole.

    Attributes:
        boxes: (F, 4) int32 of all frames.
        size: (H, W) of the frames, in whose pixels they are.
    """

    boxes: np.ndarray
    size: Grid

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


@dataclass(frozen=True, eq=False)
class Patches:
    """N x N crops that overlap, the same of every frame: each is a view, and their maps become those of the frames.

    Cells of a crop's maps are cells of the frames' maps, which have more of them, so none is resampled.

    Attributes:
        canvas: (h', w') of the frames' maps.
        cells: of each crop, on the canvas; row by row.
    """

    canvas: Grid
    cells: tuple[Box, ...]

    @classmethod
    def of(cls, apply: ApplyParams, seen: Grid) -> Patches:
        """Those that `apply.patches` and `apply.patch_share` ask for.

        Args:
            seen: (h, w) of the maps of a crop, and of a frame that is seen whole.
        """
        height, width = whole = canvas_of(apply, seen)
        last = max(apply.patches - 1, 1)
        tops, lefts = (
            [round(number * (side - own) / last) for number in range(apply.patches)]
            for side, own in ((height, seen[0]), (width, seen[1]))
        )
        corners = product(tops, lefts)
        return cls(whole, tuple(Box(top, top + seen[0], left, left + seen[1]) for top, left in corners))

    def views(self, frames: int, size: Grid) -> tuple[View, ...]:
        """What is seen of so many frames of a size (H, W), crop by crop."""
        sides = np.array([[one.top, one.bottom, one.left, one.right] for one in self.cells], np.int32)
        boxes = on_picture(sides, self.canvas, size)
        listed = ([box.top, box.bottom, box.left, box.right] for box in boxes)
        return tuple(View(np.tile(np.array(box, np.int32), (frames, 1)), size) for box in listed)

    def merged(self, maps: Sequence[Tensor]) -> Tensor:
        """(f, k, h', w'): the maps (f, k, h, w) of the crops, added and divided by the crops at each place."""
        total = maps[0].new_zeros(*maps[0].shape[:2], *self.canvas)
        seen = maps[0].new_zeros(self.canvas)
        for one, box in zip(maps, self.cells, strict=True):
            box.of(total).add_(one)
            box.of(seen).add_(1)
        return total / seen


def canvas_of(apply: ApplyParams, seen: Grid) -> Grid:
    """(h', w') of the maps of a frame, of which maps (h, w) are seen at once."""
    if apply.patches == 1:
        return seen
    return round(seen[0] / apply.patch_share), round(seen[1] / apply.patch_share)
