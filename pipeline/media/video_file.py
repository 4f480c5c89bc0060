"""Video files as sources of frames, by PyAV: which stream, how long, upright, in order, with what is damaged."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.stream import Disposition

from pipeline.errors import DataError, UsageError
from pipeline.media.colours import Colours, filter_graph
from pipeline.media.container_end import cut_off
from pipeline.media.frame_source import FrameRange, Notes, Reading, SourceFrame, number_list
from pipeline.media.pictures import MOST_PIXELS

#: Frames per second where neither the file nor the caller says it.
USUAL_FPS = 25.0


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
        colours = Colours(str(self.path), self.reading.hdr, self.notes)
        count, yielded = 0, False
        lost: list[int] = []
        early: list[int] = []  # lost ones before the first that can be decoded
        previous: np.ndarray | None = None
        for number, frame, why in self._numbered():
            if indices.ends_at(number):
                break
            count = number + 1
            wanted = number in indices
            if frame is None and wanted:
                if self.reading.damaged == "refuse":
                    raise self._refused(number, why)
                lost.append(number)
                if self.reading.damaged == "repeat":
                    if previous is None:
                        early.append(number)
                    else:
                        yield self._named(number, previous)
            elif frame is not None and (wanted or self.reading.damaged == "repeat"):
                previous = self._upright(frame, number, colours)
                for missed in early:
                    yield self._named(missed, previous)
                early = []
                if wanted:
                    yield self._named(number, previous)
                yielded = True
            if indices.ends_at(count):
                break  # before the decoder is asked for a frame that may be damaged
        else:
            if self.shortfall:
                if self.reading.damaged == "refuse":
                    raise _cut_short(self.path, count, self.shortfall)
                self.notes.add(f"cut off after frame {count - 1} ({self.shortfall})")
        if lost:
            done = "left out" if self.reading.damaged == "skip" else "replaced by the frame before"
            self.notes.add(f"damaged frames are {done}: {number_list(lost)} (ingest.damaged)")
        if not yielded:
            raise DataError(f"ingest.frames: {indices} selects none of the {count} frames of {self.path}")

    def _named(self, number: int, image: np.ndarray) -> SourceFrame:
        return SourceFrame(number, f"{number:05d}", image, self._time(number))

    @property
    def timed(self) -> bool:
        """See `FrameSource.timed`."""
        return self.time_base is not None and len(self.order) >= self.expected

    def _time(self, number: int) -> float:
        if not self.timed or self.time_base is None or number >= len(self.order):
            return number / self.fps
        return float((self.order[number] - self.order[0]) * self.time_base)

    def _upright(self, frame: av.VideoFrame, number: int, colours: Colours) -> np.ndarray:
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
        for frame, reason in _decode(self.path, self.reading, self.shortfall, self.notes):
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
    with _container(path, reading.stream, notes) as (container, stream):
        timing = _Timing.read(path, container, stream, notes)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        time_base = None if fps else stream.time_base
    first, failure = None, ""
    for frame, why in _decode(path, reading, None, notes):
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


@contextmanager
def _container(
    path: Path, number: int | None, notes: Notes
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        # The protocol is named because FFmpeg would take a name like "concat:a" for another one.
        container = av.open(f"file:{path}")
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: not a video, or cut off before its index ({error.strerror})") from error
    with container:
        if container.format.name == "tty":  # FFmpeg would draw the text as video
            raise DataError(f"{path}: not a video but text")
        stream = _chosen_stream(path, container, number, notes)
        if stream.width * stream.height > MOST_PIXELS:
            raise DataError(f"{path}: its frames have more than the {MOST_PIXELS} pixels that are read")
        yield container, stream


def _chosen_stream(
    path: Path, container: av.container.InputContainer, number: int | None, notes: Notes
) -> av.VideoStream:
    """The stream that is asked for, else the default one, else the largest; never a cover or a thumbnail."""
    stills = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [stream for stream in container.streams.video if not stream.disposition & stills]
    if not videos:
        kinds = sorted({stream.type for stream in container.streams})
        raise DataError(f"{path}: no video in this file (it holds: {', '.join(kinds) or 'nothing'})")
    if number is not None:
        for stream in videos:
            if stream.index == number:
                return stream
        known = ", ".join(f"{stream.index} ({stream.width}x{stream.height})" for stream in videos)
        raise UsageError(f"ingest.stream: {path} has no video stream {number}; there are: {known}")
    preferred = [stream for stream in videos if stream.disposition & Disposition.default] or videos
    chosen = max(preferred, key=lambda stream: stream.width * stream.height)  # the first of equal ones
    if len(videos) > 1:
        others = [stream for stream in videos if stream is not chosen]
        named = " and ".join(f"{stream.index} ({stream.width}x{stream.height})" for stream in others)
        notes.add(
            f"video stream {chosen.index} ({chosen.width}x{chosen.height}) is used, stream {named} left out; "
            f"ingest.stream: {others[0].index} chooses it"
        )
    return chosen


def _decode(
    path: Path, reading: Reading, shortfall: str | None, notes: Notes
) -> Iterator[tuple[av.VideoFrame | None, str]]:
    """All frames in presentation order, deinterlaced where that is asked for; None for what fails, and why.

    Of a file with a shortfall, the frames that the decoder holds back for reordering until the end are left
    out: those they wait for may be missing, so that there would be gaps. PyAV's default threading (by slice)
    is kept: decoding whole frames in parallel loses errors near the end.
    """
    fields = _Fields(reading.deinterlace == "auto", notes)
    with _container(path, reading.stream, notes) as (container, stream):
        if stream.codec_context.name == "mjpeg":  # else its decoder hides damage
            stream.codec_context.options = {"err_detect": "explode"}
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                yield from fields.rest()
                yield None, f"reading fails: {error.strerror}"
                return
            if packet is None:
                break
            flush = packet.dts is None and not packet.size  # the request to give out what is held back
            if shortfall and flush:
                break
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                yield from fields.rest()
                yield None, f"decoding fails: {error.strerror}"
                continue
            for frame in frames:
                yield from fields.add(frame)
        yield from fields.rest()


class _Fields:
    """Deinterlaces the frames that are marked as interlaced, by libavfilter's `bwdif`, which looks at neighbours."""

    def __init__(self, active: bool, notes: Notes) -> None:
        self._active, self._notes = active, notes
        self._graph: Graph | None = None
        self._kind: tuple[int, int, str] | None = None
        self._base = Fraction(1)

    def add(self, frame: av.VideoFrame) -> Iterator[tuple[av.VideoFrame, str]]:
        """What can be given out after another frame."""
        kind = (frame.width, frame.height, frame.format.name)
        if not self._active or frame.is_corrupt or (self._graph is None and not frame.interlaced_frame):
            yield from self.rest()
            yield frame, ""
            return
        if kind != self._kind:
            yield from self.rest()
        if self._graph is None:
            self._notes.add("interlaced, and deinterlaced; ingest.deinterlace: never keeps its fields", warns=False)
            self._kind, self._base = kind, frame.time_base or Fraction(1)
            self._graph = filter_graph(*kind, [("bwdif", "mode=send_frame:deint=interlaced")], self._base)
        self._graph.push(frame)
        yield from self._ready()

    def rest(self) -> Iterator[tuple[av.VideoFrame, str]]:
        """What is still held back, before a gap or the end."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
            self._graph = None

    def _ready(self) -> Iterator[tuple[av.VideoFrame, str]]:
        assert self._graph is not None
        while True:
            try:
                frame: Any = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if frame.pts is not None and frame.time_base:  # the filter counts in half units
                frame.pts, frame.time_base = round(frame.pts * frame.time_base / self._base), self._base
            yield frame, ""


@dataclass(frozen=True)
class _Timing:
    """What the packets of a stream tell without decoding them."""

    fps: float
    frames: int
    order: tuple[int, ...]
    shortfall: str | None

    @classmethod
    def read(cls, path: Path, container: av.container.InputContainer, stream: av.VideoStream, notes: Notes) -> _Timing:
        """Average rate by the time stamps (a container may state a nominal one), and what is missing."""
        packets = hidden = 0
        shown: list[int] = []
        end = 0
        incomplete = False
        base = stream.time_base or Fraction(1)
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                packets += 1
                hidden += packet.is_discard
                incomplete = packet.is_corrupt
                if packet.pts is not None and not packet.is_discard:
                    shown.append(packet.pts)
                    end = max(end, packet.pts + (packet.duration or 0))
        except av.error.FFmpegError:
            pass  # the decoding pass says how far it comes
        why = cut_off(path, container.format.name) or ("its last packet is incomplete" if incomplete else None)
        stated = _stated_more(container, stream, packets, float(end * base))
        if why and stated:
            why = f"{why}; {stated}"
        elif stated:
            notes.add(f"{stated}, but ends as it should: frames were dropped when it was recorded, or it was edited")
        seconds = [float(stamp * base) for stamp in shown]
        rate = _average_rate(stream, [] if why else seconds)
        return cls(rate, packets - hidden, tuple(sorted(shown)), why)


def _average_rate(stream: av.VideoStream, shown: list[float]) -> float:
    stated = float(stream.average_rate or stream.guessed_rate or USUAL_FPS)
    span = max(shown) - min(shown) if shown else 0.0
    if span <= 0:
        return stated
    measured = (len(shown) - 1) / span
    # Time stamps are rounded: within 2 % the stated rate is the exact one.
    return stated if abs(measured - stated) <= 0.02 * stated + 1 / span / len(shown) else measured


def _stated_more(
    container: av.container.InputContainer, stream: av.VideoStream, packets: int, end: float
) -> str | None:
    """What a file states, where it holds less."""
    # An mp4 is judged by its length: it also counts frames that its edit list cuts away.
    if stream.frames and "mp4" not in container.format.name:
        missing = stream.frames - packets
        return (
            f"it states {stream.frames} frames and holds {packets}" if missing > max(2, stream.frames // 50) else None
        )
    seconds = _stated_seconds(container, stream)
    if seconds and seconds - end > max(0.25, 0.02 * seconds):
        return f"it states {seconds:.2f} s and holds {end:.2f} s"
    return None


def _stated_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    alone = len(container.streams) == 1  # otherwise the sound may be what is longer
    return container.duration / av.time_base if alone and container.duration else None


def _cut_short(path: Path, count: int, why: str) -> DataError:
    if not count:
        return DataError(f"{path}: no frame can be read ({why}); the file is damaged")
    return DataError(
        f"{path}: truncated or damaged, only the first {count} frames can be read ({why}); "
        f"use just these with ingest.frames: 0:{count}"
    )
