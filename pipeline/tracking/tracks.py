"""Tracks: where each point of a grid lies in the frames of a window around its own frame.

Points are the cells of an (h, w) grid laid over the picture, row-major. Positions are (y, x) in cells, rounded: cell
(0, 0) is the upper left one. The window of frame i holds w consecutive frames with i in the middle; at the ends of the
clip it is shifted inwards, so that it still holds w, and a clip shorter than w is one window.

Whatever the tracker: a point is visible in its own frame, at its own cell; where it is visible it lies inside the grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.parameters import check_odd

Grid = tuple[int, int]


class Pictures(Protocol):
    """Frames (f, H, W, 3) u8 read one at a time: an array, or a Zarr array of a store."""

    def __len__(self) -> int: ...
    def __getitem__(self, frame: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class FeatureMaps:
    """Features of every frame for trackers that match them.

    Attributes:
        values: (f, n, c), read one frame at a time.
        grid: (h', w') of their n = h' w' tokens, row-major.
    """

    values: Pictures
    grid: Grid


@dataclass(frozen=True)
class Clip:
    """What a tracker looks at, and what is asked of it.

    Attributes:
        frames: (f, H, W, 3) u8.
        features: None where there are none.
        grid: (h, w) of the points.
        window: w, odd.

    Raises:
        DataError: no frames, or features of another number of frames.
        UsageError: an even window, or an empty grid.
    """

    frames: Pictures
    features: FeatureMaps | None
    grid: Grid
    window: int

    def __post_init__(self) -> None:
        check_odd("track.window", self.window)
        if min(self.grid) < 1:
            raise UsageError(f"tracks need a grid of at least one cell, not {self.grid[0]}x{self.grid[1]}")
        if not len(self.frames):
            raise DataError("there is no frame to track")
        if self.features is not None and len(self.features.values) != len(self.frames):
            raise DataError(
                f"features of {len(self.features.values)} frames do not belong to a clip of {len(self.frames)}; "
                "run `vidseg extract` on this clip"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames."""
        height, width = np.shape(self.frames[0])[:2]
        return height, width

    def window_of(self, frame: int) -> range:
        """The frames in which points of `frame` are looked for."""
        return window_of(frame, len(self.frames), self.window)


@dataclass(frozen=True, eq=False)
class FrameTracks:
    """The tracks of one frame's points.

    Attributes:
        yx: (w, n, 2) int16, cells; anything, even outside the grid, where the point is not visible.
        visible: (w, n) bool.
        start: first frame of the window.
    """

    yx: np.ndarray
    visible: np.ndarray
    start: int


@dataclass(frozen=True, eq=False)
class Tracks:
    """The tracks of every frame's points.

    Attributes:
        yx: (f, w, n, 2) int16, cells.
        visible: (f, w, n) bool.
        start: (f,) int32, first frame of each window.
    """

    yx: np.ndarray
    visible: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.yx)

    @classmethod
    def of(cls, frames: Iterable[FrameTracks]) -> Tracks:
        """The tracks of consecutive frames, at least one."""
        listed = list(frames)
        return cls(
            np.stack([frame.yx for frame in listed]),
            np.stack([frame.visible for frame in listed]),
            np.array([frame.start for frame in listed], np.int32),
        )


def within_shots(tracks: Tracks, first: int, cuts: Sequence[int]) -> Tracks:
    """The tracks with nothing visible beyond a cut: what a tracker finds there is another thing.

    Args:
        tracks: of the frames from `first` on.
        cuts: positions of the frames that begin a shot, but for the clip's first one, ascending.
    """
    if not cuts:
        return tracks
    own = np.arange(first, first + len(tracks))
    seen = tracks.start[:, None] + np.arange(tracks.visible.shape[1])
    same = np.searchsorted(cuts, own, side="right")[:, None] == np.searchsorted(cuts, seen, side="right")
    return Tracks(tracks.yx, tracks.visible & same[..., None], tracks.start)


class Tracker(Protocol):
    """Finds where points go; deterministic, and never holds more of a clip than a window."""

    @property
    def name(self) -> str:
        """As in `track.method`."""
        ...

    @property
    def needs_features(self) -> bool:
        """Whether the clip must have features."""
        ...

    def stream(self, clip: Clip, asked: Sequence[int]) -> Iterator[FrameTracks]:
        """The tracks of the points of these frames, which ascend."""
        ...


def track(
    tracker: Tracker,
    frames: Pictures,
    features: FeatureMaps | None,
    grid: Grid,
    window: int,
    asked: range | None = None,
) -> Tracks:
    """The tracks of a whole clip, or of the frames `asked` for; `Tracker.stream` holds only a window's.

    Raises:
        DataError, UsageError: as `Clip`.
    """
    clip = Clip(frames, features, grid, window)
    return Tracks.of(tracker.stream(clip, range(len(frames)) if asked is None else asked))


def window_of(frame: int, frames: int, window: int, first: int = 0) -> range:
    """The window of a frame: `window` frames with it in the middle, shifted inwards at the ends.

    Args:
        frames: length of the clip, or of the part of it that begins at `first`; if shorter than the window, the
            window is all of it.
    """
    length = min(window, frames)
    start = min(max(frame - window // 2, first), first + frames - length)
    return range(start, start + length)


def grid_points(grid: Grid) -> np.ndarray:
    """(n, 2) int16: the cell (y, x) of each point."""
    return np.stack(np.divmod(np.arange(grid[0] * grid[1]), grid[1]), axis=-1).astype(np.int16)


def to_cells(yx: np.ndarray, size: tuple[int, int], grid: Grid) -> np.ndarray:
    """The cells (..., 2) int16 under positions (..., 2) in a picture of `size` (H, W) pixels.

    The picture's upper left corner is (0, 0), the centre of its first pixel (0.5, 0.5). Halves go to the even cell.
    """
    factor = np.divide(grid, size, dtype=np.float64)
    cells = np.rint(np.asarray(yx) * factor - 0.5)
    limits = np.iinfo(np.int16)
    return np.clip(np.nan_to_num(cells, nan=limits.min), limits.min, limits.max).astype(np.int16)


def to_pixels(cells: np.ndarray, size: tuple[int, int], grid: Grid) -> np.ndarray:
    """The positions (..., 2) float64 of the centres of cells, in a picture of `size` pixels."""
    return (np.asarray(cells, np.float64) + 0.5) * np.divide(size, grid, dtype=np.float64)


def is_inside(cells: np.ndarray, grid: Grid) -> np.ndarray:
    """Whether cells (..., 2) lie in the grid: (...) bool."""
    return np.asarray(((cells >= 0) & (cells < np.array(grid))).all(axis=-1))


def frame_tracks(frame: int, window: range, cells: np.ndarray, visible: np.ndarray, grid: Grid) -> FrameTracks:
    """What a tracker found for one frame, with what holds for all of them put right: the own frame, the grid's border.

    Args:
        cells: (w, n, 2), visible: (w, n).
    """
    yx, seen = cells.astype(np.int16), visible & is_inside(cells, grid)
    yx[frame - window.start], seen[frame - window.start] = grid_points(grid), True
    return FrameTracks(yx, seen, window.start)
