"""Tracks as chains of motions between neighbouring frames, which `flow` and `features` find each in their way.

A point is followed from its own frame outwards. It stays visible while going to the next frame and back again ends
where it began (nearly), and while it is in the picture; once lost, it stays lost in that direction: what covers a point
would carry it away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.tracking.tracks import Clip, FrameTracks, Grid, frame_tracks, grid_points, to_cells, to_pixels


@dataclass(frozen=True, eq=False)
class Motion:
    """Where the pixels of two neighbouring frames go.

    Attributes:
        forward: (H, W, 2) float32, (y, x) displacement in pixels from the earlier to the later frame.
        backward: the same from the later to the earlier one.
    """

    forward: np.ndarray
    backward: np.ndarray


@dataclass(frozen=True)
class Tolerance:
    """How far there and back may miss: squared miss <= relative (|there|^2 + |back|^2) + absolute, in pixels^2."""

    relative: float
    absolute: float


def chained(
    clip: Clip, asked: Sequence[int], motion_after: Callable[[int], Motion], tolerance: Tolerance
) -> Iterator[FrameTracks]:
    """The tracks of the points of these frames.

    Args:
        motion_after: the motion between frame j and frame j + 1; called once per pair that a window needs, in
            ascending order. Motions may have any resolution.
    """
    motions: dict[int, Motion] = {}
    for frame in asked:
        window = clip.window_of(frame)
        for gone in [pair for pair in motions if pair < window.start]:
            del motions[gone]
        for pair in range(window.start, window.stop - 1):
            if pair not in motions:
                motions[pair] = motion_after(pair)
        yield _followed(frame, window, motions, clip.grid, tolerance)


def sample(field: np.ndarray, yx: np.ndarray) -> np.ndarray:
    """Values (n, c) of a field (H, W, c) at positions (n, 2) in pixels, bilinear; beyond the border, the border's."""
    height, width = field.shape[:2]
    y, x = (np.clip(yx - 0.5, 0, (height - 1, width - 1))).T
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (y - top)[:, None], (x - left)[:, None]
    upper = field[top, left] * (1 - across) + field[top, right] * across
    lower = field[below, left] * (1 - across) + field[below, right] * across
    return upper * (1 - down) + lower * down


def _followed(frame: int, window: range, motions: dict[int, Motion], grid: Grid, tolerance: Tolerance) -> FrameTracks:
    points = grid_points(grid)
    cells = np.repeat(points[None], len(window), axis=0)
    visible = np.ones(cells.shape[:2], bool)
    for step in (1, -1):
        seen = np.ones(len(points), bool)
        position = None
        for target in range(frame + step, window.stop if step > 0 else window.start - 1, step):
            motion = motions[min(target, target - step)]
            there, back = (motion.forward, motion.backward)[::step]
            size = there.shape[:2]
            position = to_pixels(points, size, grid) if position is None else position
            moved = sample(there, position)
            returned = sample(back, position + moved)
            position = position + moved
            miss = _squared(moved + returned)
            seen &= miss <= tolerance.relative * (_squared(moved) + _squared(returned)) + tolerance.absolute
            seen &= ((position >= 0) & (position < size)).all(axis=-1)
            cells[target - window.start] = to_cells(position, size, grid)
            visible[target - window.start] = seen
    return frame_tracks(frame, window, cells, visible, grid)


def _squared(vectors: np.ndarray) -> np.ndarray:
    return (vectors**2).sum(axis=-1)
