"""The frames of a source on their way into clip.zarr: a pass looks at them, and for long clips a second one writes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.ahead import ahead
from pipeline.media.cut_detection import CutDetector
from pipeline.media.frame_source import FrameRange, FrameSource
from pipeline.media.resize import resize_frame
from pipeline.stores.schemas import CLIP, ArraySpec
from pipeline.stores.shard_buffer import ShardBuffer
from pipeline.stores.store import fingerprint
from pipeline.stores.writer import StoreWriter

#: Frames at model size that are held between the passes take no more bytes than this; a longer clip is decoded again.
MOST_HELD = 2**26


@dataclass(frozen=True)
class ClipFrames:
    """What one pass over the frames of a clip tells: enough to write the store's template before the frames.

    Attributes:
        source, selected: where the frames come from, and which of them are the clip.
        size: (H, W) at which they are stored.
        names, indices: of the frames, the latter in the source, ascending.
        times: seconds after the source's first frame at which each is shown.
        digest: SHA-256 (hex) of size and pixels.
        images: the frames (H, W, 3) u8; None where they take more than `MOST_HELD`.
    """

    source: FrameSource
    selected: FrameRange
    size: tuple[int, int]
    names: list[str]
    indices: list[int]
    times: list[float]
    digest: str
    images: list[np.ndarray] | None = None

    @property
    def params(self) -> dict[str, Any]:
        """What the store says of how it was made: only what follows from the result, so that the ranges `None` and
        "0:42" of 42 frames give the same bytes.
        """
        return {"ingest": {"size": "{}x{}".format(*self.size), "stride": self.selected.stride}}

    @property
    def attrs(self) -> dict[str, Any]:
        """The store's attributes; `times` where the frames have times of their own."""
        times = {"times": self.times} if self.source.timed else {}
        return {
            "names": self.names,
            "source_size": list(self.source.size),
            "source_indices": self.indices,
            **times,
        }

    def fingerprint(self, version: int) -> str:
        """What the store is known by, made by that version of ingest.

        Nothing that is computed follows from the times: a clip of an earlier version gets them, and stays the same.
        """
        return fingerprint("ingest", version, self.digest, self.names, self.indices, self.source.size)


def scan_frames(
    source: FrameSource,
    selected: FrameRange,
    size: tuple[int, int],
    advance: Callable[[int], None],
    detector: CutDetector | None = None,
) -> ClipFrames:
    """Look at the frames of a clip one by one; a detector of cuts sees each at model size.

    Raises:
        DataError: a frame cannot be read, or none is selected.
    """
    digest = hashlib.sha256(str(size).encode())
    names: list[str] = []
    indices: list[int] = []
    times: list[float] = []
    images: list[np.ndarray] | None = []
    with closing(ahead(source.frames(selected))) as read:
        for frame in read:
            names.append(frame.name)
            indices.append(frame.index)
            times.append(round(frame.time, 6))
            image = resize_frame(frame.image, size)
            digest.update(image.tobytes())
            if images is not None:
                images.append(image)
                images = images if len(images) * image.nbytes <= MOST_HELD else None
            if detector is not None:
                detector.add(image)
            advance(1)
    return ClipFrames(source, selected, size, names, indices, times, digest.hexdigest(), images)


def write_frames(clip: ClipFrames, path: Path, scratch: Path, version: int, advance: Callable[[int], None]) -> Path:
    """Write clip.zarr; where the frames are not held, the source is read once more, frame by frame.

    Args:
        version: of the stage ingest, for the fingerprint.

    Raises:
        DataError: a frame cannot be read, or something else lies at the path.
    """
    spec = ArraySpec((len(clip.names), *clip.size, 3), "uint8")
    mark = clip.fingerprint(version)
    writer = StoreWriter(path, scratch, CLIP, mark, {"frames": spec}, params=clip.params, attrs=clip.attrs)
    buffer = ShardBuffer(writer, spec.shard)
    again = (resize_frame(frame.image, clip.size) for frame in clip.source.frames(clip.selected))
    images: Iterable[np.ndarray] = again if clip.images is None else clip.images
    for image in images:
        buffer.add({"frames": image[None]})
        advance(1)
    buffer.flush()
    return writer.commit()
