"""A clip's frames one by one: from its store, or from the source that it was made of, at full resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.media.frame_source import FrameRange, FrameSource
from pipeline.media.resize import resize_frame
from pipeline.media.video import FOLDER_FPS, open_source
from pipeline.stores.clip_source import ClipSource
from pipeline.stores.store import Store, shard_frames

#: Mean difference in grey levels above which a source is another video; decoders differ by less than 1.
_OTHER_VIDEO = 8.0


def frames_of(store: Store, name: str) -> Iterator[np.ndarray]:
    """The frames of an array in order, reading one shard at a time."""
    shard = shard_frames(store.array(name))
    for start in range(0, store.frames(name), shard):
        yield from store.read(name, start, start + shard)


@dataclass(frozen=True)
class ClipPictures:
    """The pictures u8 (H0, W0, 3) of a clip's frames at the source's size.

    Attributes:
        fps: at which they are shown.
        source: where they are read from; None = the clip's own frames, enlarged.
        warning: why it is not the source, for the user.
        cuts: positions of the frames that begin a shot, but for the first one, ascending.
    """

    clip: Store
    fps: float
    source: FrameSource | None
    warning: str | None = None
    cuts: tuple[int, ...] = ()

    @property
    def aspect(self) -> Fraction:
        """Width of a pixel by its height."""
        return Fraction(1) if self.source is None else self.source.aspect

    @property
    def times(self) -> list[float]:
        """Seconds after the source's first frame at which each frame is shown."""
        if own := self.clip.attrs.get("times"):
            return [float(time) for time in own]
        stride = int(self.clip.params.get("ingest", {}).get("stride", 1))
        return [int(index) / (self.fps * stride) for index in self.clip.attrs["source_indices"]]

    @property
    def size(self) -> tuple[int, int]:
        """(H0, W0)."""
        height, width = self.clip.attrs["source_size"]
        return int(height), int(width)

    def images(self) -> Iterator[np.ndarray]:
        """All pictures in the clip's order; can be called any number of times.

        Raises:
            DataError: the source ends before the clip's last frame.
        """
        if self.source is None:
            for frame in frames_of(self.clip, "frames"):
                yield cv2.resize(frame, self.size[::-1], interpolation=cv2.INTER_CUBIC)
            return
        wanted = [int(index) for index in self.clip.attrs["source_indices"]]
        found = 0
        for source_frame in self.source.frames(_covering(wanted)):
            if found < len(wanted) and source_frame.index == wanted[found]:
                yield source_frame.image
                found += 1
        if found < len(wanted):
            raise DataError(
                f"the source of {self.clip.path} has no frame {wanted[found]} any more; run `vidseg ingest` again"
            )


def open_pictures(clip: Store, origin: ClipSource | None) -> ClipPictures:
    """The pictures of a clip, from its source where that is known and still what the clip was made of."""
    height, width = clip.size("frames")
    instead = f"the clip's frames of {width}x{height} are enlarged instead"
    if origin is None:
        rate = f"shown at {FOLDER_FPS:g} frames per second"
        return ClipPictures(clip, FOLDER_FPS, None, f"its source is not known; {instead}, {rate}")
    try:
        source = open_source(origin.path, reading=origin.reading)
        reason = _mismatch(source, clip, origin.path)
    except (DataError, UsageError) as error:
        reason = str(error)
    if reason is None:
        return ClipPictures(clip, origin.fps, source)
    return ClipPictures(clip, origin.fps, None, f"the source cannot be used ({reason}); {instead}")


def _mismatch(source: FrameSource, clip: Store, path: Path) -> str | None:
    """Why a source is not the one that the clip was made of, or None."""
    if list(source.size) != list(clip.attrs["source_size"]):
        return f"{path}: is now {source.size[1]}x{source.size[0]} pixels"
    first = int(clip.attrs["source_indices"][0])
    image = next(iter(source.frames(FrameRange(first, first + 1)))).image
    stored = clip.read("frames", 0, 1)[0]
    difference = np.abs(resize_frame(image, stored.shape[:2]).astype(np.int16) - stored).mean()
    return f"{path}: is now another video" if difference > _OTHER_VIDEO else None


def _covering(indices: list[int]) -> FrameRange:
    """The coarsest range that holds all indices."""
    step = math.gcd(*(later - earlier for earlier, later in pairwise(indices))) or 1
    return FrameRange(indices[0], indices[-1] + 1, step)
