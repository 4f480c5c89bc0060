"""How steady labels are: whether what is followed from one frame to the next keeps its label there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError
from pipeline.media.resize import resize_nearest
from pipeline.scoring.davis import Frames


@dataclass(frozen=True)
class Followed:
    """Where the points of one frame are in the frames of a window.

    Attributes:
        yx: (w, n, 2) rows and columns in cells of the grid, valid where visible.
        visible: (w, n) bool.
        start: first frame of the window.
    """

    yx: np.ndarray
    visible: np.ndarray
    start: int


def flicker(labels: Frames, grid: tuple[int, int], follow: Callable[[int], Followed]) -> dict[str, int]:
    """Count the points that change their label on the way to the next frame.

    Needs no ground truth. A point that leaves the picture or is covered does not count. Neither a wrong label that
    stays nor a right one that moves with its object is a change.

    Args:
        labels: (H, W) label values of each frame of a clip.
        grid: (h, w) of the points, row-major; a point has the label under the centre of its cell.
        follow: frame -> where its h w points are; asked of all frames but the last, in order.

    Returns:
        `changed` and `points`: how many of how many visible points changed.

    Raises:
        DataError: tracks of another grid.
    """
    changed = points = 0
    now = resize_nearest(labels[0], grid) if len(labels) else None
    for frame in range(len(labels) - 1):
        assert now is not None
        followed, after = follow(frame), resize_nearest(labels[frame + 1], grid)
        if followed.yx.shape[1] != grid[0] * grid[1]:
            raise DataError(f"tracks of {followed.yx.shape[1]} points do not fit a grid of {grid[0]}x{grid[1]}")
        place = frame + 1 - followed.start
        if place < len(followed.yx):
            seen = followed.visible[place]
            rows, columns = followed.yx[place][seen].T
            changed += int(np.count_nonzero(now.reshape(-1)[seen] != after[rows, columns]))
            points += int(np.count_nonzero(seen))
        now = after
    return {"changed": changed, "points": points}
