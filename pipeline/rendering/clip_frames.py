"""A clip's frames one by one: from its store, or from the source that it was made of, at full resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from pipeline.artifacts import Store
from pipeline.errors import DataError
from pipeline.resize import resize_frame
from pipeline.video import FrameRange, FrameSource, open_source

#: Mean difference in grey levels above which a source is another video; decoders differ by less than 1.
_OTHER_VIDEO = 8.0


def frames_of(store: Store, name: str) -> Iterator[np.ndarray]:
    """The frames of an array in order, reading one shard at a time."""
    array = store.array(name)
    shard = int((array.shards or array.chunks)[0])
    for start in range(0, store.frames(name), shard):
        yield from store.read(name, start, start + shard)


@dataclass(frozen=True)
class ClipPictures:
    """The pictures u8 (H0, W0, 3) of a clip's frames at the source's size.

    Attributes:
        source: where they are read from; None = the clip's own frames, enlarged.
        warning: why it is not the source, for the user.
    """

    clip: Store
    source: FrameSource | None
    warning: str | None = None

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
            path = self.clip.attrs["source"]
            raise DataError(f"{path}: has no frame {wanted[found]} any more; run `vidseg ingest` again")


def open_pictures(clip: Store) -> ClipPictures:
    """The pictures of a clip, from its source where that is still what the clip was made of."""
    path = Path(str(clip.attrs["source"]))
    try:
        source = open_source(path)
        reason = _mismatch(source, clip)
    except DataError as error:
        reason = str(error)
    if reason is None:
        return ClipPictures(clip, source)
    height, width = clip.array("frames").shape[1:3]
    instead = f"the clip's frames of {width}x{height} are enlarged instead"
    return ClipPictures(clip, None, f"the source cannot be used ({reason}); {instead}")


def _mismatch(source: FrameSource, clip: Store) -> str | None:
    """Why a source is not the one that the clip was made of, or None."""
    if list(source.size) != list(clip.attrs["source_size"]):
        return f"{clip.attrs['source']}: is now {source.size[1]}x{source.size[0]} pixels"
    first = int(clip.attrs["source_indices"][0])
    image = next(iter(source.frames(FrameRange(first, first + 1)))).image
    stored = clip.read("frames", 0, 1)[0]
    difference = np.abs(resize_frame(image, stored.shape[:2]).astype(np.int16) - stored).mean()
    return f"{clip.attrs['source']}: is now another video" if difference > _OTHER_VIDEO else None


def _covering(indices: list[int]) -> FrameRange:
    """The coarsest range that holds all indices."""
    step = math.gcd(*(later - earlier for earlier, later in pairwise(indices))) or 1
    return FrameRange(indices[0], indices[-1] + 1, step)
