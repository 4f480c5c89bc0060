"""YouTube-VOS (Xu et al., ECCV 2018) and MOSE (Ding et al., ICCV 2023), which share a layout.

    <split>/JPEGImages/<video>/*.jpg          frames
    <split>/Annotations/<video>/*.png         object numbers: of all frames of `train`, else where objects begin

Objects may begin later than in the first frame, and none need be in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.davis import objects_of
from pipeline.datasets.listing import Video, pair_frames
from pipeline.errors import DataError

#: Every fifth frame of 30 a second is published; MOSE does not say its rate.
YOUTUBE_FPS = 6.0


def videos(root: Path, split: str | None, fps: float | None) -> Iterator[Video]:
    """The videos of a split, by name.

    Args:
        fps: frames per second; None = unknown.

    Raises:
        DataError: no such split, no videos, or a video without any mask.
    """
    frames_of, labels_of = (root / str(split) / part for part in ("JPEGImages", "Annotations"))
    names = sorted(path.name for path in frames_of.glob("*") if path.is_dir())
    if not names:
        raise DataError(f"{frames_of}: no folders of frames here; there should be one per video")
    for name in names:
        frames = pair_frames(frames_of / name, labels_of / name)
        if not any(frame.labels for frame in frames):
            raise DataError(f"{labels_of / name}: no mask of any frame of {name}")
        yield Video(name, frames, fps, objects_of(name, frames))
