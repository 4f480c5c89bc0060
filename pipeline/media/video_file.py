"""Video files as sources of frames, by PyAV: numbered, upright, with what is damaged."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.errors import DataError
from pipeline.media.colours import Colours
from pipeline.media.decoding import decoded, open_stream
from pipeline.media.frame_source import FrameRange, Notes, Reading, SourceFrame, number_list
from pipeline.media.packet_timing import PacketTiming


@dataclass(frozen=True)
class Orientation:
    """Quarter turns and mirroring: first the axes are swapped, then rows and columns reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """What the display matrix of a video's first frame asks for.

        Only that frame is asked: a frame whose side data was looked at waits for the garbage collector, and a
        thousand of them fill the memory.
        """
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        # A source point (x, y) is shown at (a x + c y, b x + d y).
        a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), "<i4")[:5])
        if max(abs(b), abs(c)) > max(abs(a), abs(d)):
            return cls(transpose=True, flip_rows=b < 0, flip_columns=c < 0)
        return cls(flip_rows=d < 0, flip_columns=a < 0)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """An image (h, w, 3) turned upright."""
        turned = image.swapaxes(0, 1) if self.transpose else image
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in (self.flip_rows, self.flip_columns))
        return np.ascontiguousarray(turned[rows, columns])


class _Gaps:
    """Frames that are damaged, and what is shown in their place: nothing, or the frame before.

    Attributes:
        repeated: whether the frame before stands in; else they are left out.
        lost: their numbers.
    """

    def __init__(self, repeated: bool) -> None:
        self.repeated = repeated
        self.lost: list[int] = []
        self._waiting: list[int] = []  # lost before any frame could be decoded: the first one stands in
        self._previous: np.ndarray | None = None

    def meet(self, number: int) -> list[tuple[int, np.ndarray]]:
        """What is shown for a damaged frame."""
        self.lost.append(number)
        if self.repeated and self._previous is None:
            self._waiting.append(number)
        return [(number, self._previous)] if self.repeated and self._previous is not None else []

    def fill(self, number: int, image: np.ndarray, wanted: bool) -> list[tuple[int, np.ndarray]]:
        """What is shown when a frame was decoded, which itself may not be wanted."""
        shown = [*self._waiting, *([number] if wanted else [])]
        self._previous, self._waiting = image, []
        return [(at, image) for at in shown]


@dataclass(frozen=True)
class VideoSource:
    """A video file; frames are named by their five-digit index.

    Attributes:
        order: time stamps of all frames in presentation order, as far as packets have them.
        time_base: seconds of a unit of these; None = a given rate wins over them.
        orientation: what turns the stored frames upright.
        shortfall: why the file cannot be whole, or None.
        stored_size: (h, w) of the first frame as stored; others are scaled to it.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    aspect: Fraction
    expected: int
    order: tuple[int, ...]
    time_base: Fraction | None
    orientation: Orientation
    shortfall: str | None
    stored_size: tuple[int, int]
    reading: Reading
    notes: Notes = field(compare=False)

    def frames(self, indices: FrameRange = FrameRange()) -> Iterator[SourceFrame]:
        """See `FrameSource.frames`; damage is an error only when the range reaches it."""
        colours, gaps = Colours(str(self.path), self.reading.hdr, self.notes), _Gaps(self.reading.damaged == "repeat")
        count = given = 0
        for number, frame, why in self._until_end(indices):
            count, shown = number + 1, []
            if frame is not None and (number in indices or gaps.repeated):
                shown = gaps.fill(number, self._upright(frame, colours), number in indices)
            elif frame is None and number in indices:
                if self.reading.damaged == "refuse":
                    raise self._refused(number, why)
                shown = gaps.meet(number)
            for at, image in shown:
                yield SourceFrame(at, f"{at:05d}", image, self._time(at))
            given += len(shown)
        if gaps.lost:
            done = "replaced by the frame before" if gaps.repeated else "left out"
            self.notes.add(f"damaged frames are {done}: {number_list(gaps.lost)} (ingest.damaged)")
        if not given:
            raise DataError(f"ingest.frames: {indices} selects none of the {count} frames of {self.path}")

    def _until_end(self, indices: FrameRange) -> Iterator[tuple[int, av.VideoFrame | None, str]]:
        """The numbered frames up to the end of a range, or of the file, which may end too early."""
        count = 0
        for number, frame, why in self._numbered():
            if indices.ends_at(number):
                return
            count = number + 1
            yield number, frame, why
            if indices.ends_at(count):
                return  # before the decoder is asked for a frame that may be damaged
        if self.shortfall:
            if self.reading.damaged == "refuse":
                raise _cut_short(self.path, count, self.shortfall)
            self.notes.add(f"cut off after frame {count - 1} ({self.shortfall})")

    @property
    def timed(self) -> bool:
        """See `FrameSource.timed`."""
        return self.time_base is not None and len(self.order) >= self.expected

    def _time(self, number: int) -> float:
        if not self.timed or self.time_base is None or number >= len(self.order):
            return number / self.fps
        return float((self.order[number] - self.order[0]) * self.time_base)

    def _upright(self, frame: av.VideoFrame, colours: Colours) -> np.ndarray:
        stored = (frame.height, frame.width)
        if stored != self.stored_size:
            height, width = self.stored_size
            self.notes.add(f"frames change from {width}x{height} to {stored[1]}x{stored[0]} pixels and are scaled back")
        return self.orientation.apply(colours.rgb(frame, self.stored_size))

    def _numbered(self) -> Iterator[tuple[int, av.VideoFrame | None, str]]:
        """Every frame with its number; None where it is damaged or missing, with the reason.

        Behind damage frames are numbered by their time stamps, so that they keep the numbers that they have.
        """
        count = failed = 0
        broken, why = False, ""
        for frame, reason in decoded(self.path, self.reading, self.shortfall, self.notes):
            if frame is None:
                broken, failed, why = True, failed + 1, why or reason
                continue
            number = self._rank(frame, count, failed) if broken else count
            for lost in range(count, number):
                yield lost, None, why
            yield number, None if frame.is_corrupt else frame, "a part of it is missing"
            broken = broken or frame.is_corrupt
            count, failed, why = number + 1, 0, ""
        if broken and not self.shortfall:
            for lost in range(count, max(count + failed, len(self.order))):
                yield lost, None, why or "a part of it is missing"

    def _rank(self, frame: av.VideoFrame, count: int, failed: int) -> int:
        at = len(self.order) if frame.pts is None else bisect_left(self.order, frame.pts)
        return max(count, at) if at < len(self.order) and self.order[at] == frame.pts else count + failed

    def _refused(self, number: int, why: str) -> DataError:
        if self.shortfall or self.expected <= number + 1:
            return _cut_short(self.path, number, self.shortfall or why)
        before = f", or use what lies before it: ingest.frames: 0:{number}" if number else ""
        return DataError(
            f"{self.path}: frame {number} is damaged ({why}); go on without it by ingest.damaged: skip, or repeat "
            f"the frame before it{before}"
        )


def open_video(path: Path, fps: float | None, reading: Reading) -> VideoSource:
    """Open a video file.

    Args:
        fps: overrides what it says.

    Raises:
        DataError: not a video, without frames, or cut off so that none can be read.
        UsageError: it has no such stream.
    """
    notes = Notes()
    with open_stream(path, reading.stream, notes) as (container, stream):
        timing = PacketTiming.read(path, container, stream, notes)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        time_base = None if fps else stream.time_base
    first, failure = None, ""
    for frame, why in decoded(path, reading, None, notes):
        first, failure = frame, failure or why
        if first is not None:
            break
    if first is None:
        raise _cut_short(path, 0, failure) if failure else DataError(f"{path}: the video has no frames")
    stored = (first.height, first.width)
    orientation = Orientation.of(first)
    return VideoSource(
        path,
        size=stored[::-1] if orientation.transpose else stored,
        fps=fps or timing.fps,
        aspect=1 / aspect if orientation.transpose else aspect,
        expected=timing.frames,
        order=timing.order,
        time_base=time_base,
        orientation=orientation,
        shortfall=timing.shortfall,
        stored_size=stored,
        reading=reading,
        notes=notes,
    )


def _cut_short(path: Path, count: int, why: str) -> DataError:
    if not count:
        return DataError(f"{path}: no frame can be read ({why}); the file is damaged")
    return DataError(
        f"{path}: truncated or damaged, only the first {count} frames can be read ({why}); "
        f"use just these with ingest.frames: 0:{count}"
    )
