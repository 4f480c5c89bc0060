"""The tracker `static`: every point stays where it is. What others are measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.tracking.tracks import Clip, FrameTracks, frame_tracks, grid_points


@dataclass(frozen=True)
class StaticTracker:
    """Takes the picture for a still."""

    name: str = "static"
    needs_features: bool = False

    def stream(self, clip: Clip, asked: Sequence[int]) -> Iterator[FrameTracks]:
        for frame in asked:
            window = clip.window_of(frame)
            cells = np.repeat(grid_points(clip.grid)[None], len(window), axis=0)
            yield frame_tracks(frame, window, cells, np.ones(cells.shape[:2], bool), clip.grid)
