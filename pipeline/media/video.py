"""Frames in and out: videos through PyAV, folders of pictures, H.264 files.

A `FrameSource` streams: one frame in memory at a time, whatever the length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.stream import Disposition

from pipeline.errors import DataError, UsageError
from pipeline.files import replacing
from pipeline.media.pictures import MOST_PIXELS, by_stem, image_size, read_image
from pipeline.spans import parse_span

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

#: By which a folder tells that a file in it is a video.
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"}
)

#: Frames per second of a folder of pictures, unless the caller knows better.
FOLDER_FPS = 25.0


@dataclass(frozen=True)
class FrameRange:
    """Which frames of a source are used: start, start + stride, ... below stop (None = to the end)."""

    start: int = 0
    stop: int | None = None
    stride: int = 1

    @classmethod
    def parse(cls, frames: str | int | None, stride: int = 1) -> FrameRange:
        """Read `ingest.frames`: "0:28", "10:", ":5" (a Python slice without negatives); None = all frames.

        Raises:
            UsageError: not such a text, a range that can hold no frame, or a stride below 1.
        """
        if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
            raise UsageError(f"ingest.stride must be a whole number of at least 1, not {stride!r}")
        if frames is None:
            return cls(stride=stride)
        if isinstance(frames, int):  # YAML 1.1 reads an unquoted 10:28 as a base-60 number
            like = "{}:{:02d}".format(*divmod(frames, 60)) if frames >= 60 else f"0:{frames}"
            raise UsageError(
                f"ingest.frames: YAML reads this as the number {frames}; put the range in quotes: "
                f"frames: '{like}' in a file, --set \"ingest.frames='{like}'\" on the command line"
            )
        span = parse_span(frames, "ingest.frames")
        return cls(span.start or 0, span.stop, stride)

    def __str__(self) -> str:
        return f"{self.start}:{'' if self.stop is None else self.stop}"

    def __contains__(self, index: int) -> bool:
        return index >= self.start and not self.ends_at(index) and (index - self.start) % self.stride == 0

    def count(self, total: int) -> int:
        """How many frames of a source of `total` frames are in the range."""
        return len(range(self.start, total if self.stop is None else min(self.stop, total), self.stride))

    def ends_at(self, index: int) -> bool:
        """Whether neither `index` nor any later frame is in the range."""
        return self.stop is not None and index >= self.stop


@dataclass(frozen=True)
class SourceFrame:
    """One frame: its position in the source, its name, its pixels u8 (H0, W0, 3), RGB."""

    index: int
    name: str
    image: np.ndarray


class FrameSource(Protocol):
    """Something that frames can be read from, any number of times.

    Attributes:
        fps: average frames per second.
        size: (H0, W0) of the upright frames.
        expected: number of frames as far as it is known before decoding; for progress and estimates.
    """

    @property
    def fps(self) -> float: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def expected(self) -> int: ...

    def frames(self, indices: FrameRange = ...) -> Iterator[SourceFrame]:
        """The frames of a range in presentation order.

        Raises:
            DataError: a frame cannot be read or has another size, or the range holds none.
        """
        ...


def open_source(path: Path, fps: float | None = None) -> FrameSource:
    """Open a video, a folder of pictures, or a single picture.

    Args:
        fps: overrides what a video says, and `FOLDER_FPS` of a folder.

    Raises:
        DataError: missing, not a video, without frames, or a folder whose pictures do not fit together.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, fps or FOLDER_FPS)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return FolderSource((path,), image_size(path), fps or FOLDER_FPS)
    return _open_video(path, fps)


def list_images(folder: Path) -> list[Path]:
    """The picture files of a folder in natural order (2 before 10); hidden files and others are left out.

    A link that leads nowhere is in the list: reading it names it, where leaving it out would lose a frame.
    """
    files = (path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
    return sorted((path for path in files if path.suffix.lower() in IMAGE_SUFFIXES), key=_natural)


def list_videos(folder: Path) -> list[Path]:
    """The videos of a folder in natural order; none where it holds a picture, which makes it a folder of frames."""
    if list_images(folder):
        return []
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted((path for path in files if path.suffix.lower() in VIDEO_SUFFIXES), key=_natural)


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder, as `list_images` orders them, by stem; raises as `by_stem` does."""
    return by_stem(list_images(folder))


@dataclass(frozen=True)
class FolderSource:
    """Pictures as frames, named by their stems."""

    files: tuple[Path, ...]
    size: tuple[int, int]
    fps: float

    @property
    def expected(self) -> int:
        """The number of pictures."""
        return len(self.files)

    def frames(self, indices: FrameRange = FrameRange()) -> Iterator[SourceFrame]:
        """See `FrameSource.frames`."""
        chosen = self.files[indices.start : indices.stop : indices.stride]
        if not chosen:
            raise DataError(f"ingest.frames: {indices} selects none of the {len(self.files)} frames")
        for number, file in enumerate(chosen):
            image = read_image(file)
            _check_size(str(file), image.shape[:2], self.size)
            yield SourceFrame(indices.start + number * indices.stride, file.stem, image)


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
        orientation: what turns the stored frames upright.
        shortfall: why the file cannot be whole (it states more than it holds), or None.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    expected: int
    orientation: Orientation
    shortfall: str | None

    def frames(self, indices: FrameRange = FrameRange()) -> Iterator[SourceFrame]:
        """See `FrameSource.frames`; a damaged end is an error only when the range reaches it."""
        count = 0
        yielded = False
        for frame in _decode(self.path, self.shortfall):
            if frame.is_corrupt:
                raise _cut_short(self.path, count, "the next frame is damaged")
            if count in indices:
                image = self.orientation.apply(frame.to_ndarray(format="rgb24"))
                _check_size(f"{self.path}: frame {count}", image.shape[:2], self.size)
                yield SourceFrame(count, f"{count:05d}", image)
                yielded = True
            count += 1
            if indices.ends_at(count):
                return  # before the decoder is asked for a frame that may be damaged
        if self.shortfall:
            raise _cut_short(self.path, count, self.shortfall)
        if not yielded:
            raise DataError(f"ingest.frames: {indices} selects none of the {count} frames of {self.path}")


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write frames u8 (H, W, 3), RGB, as an H.264 mp4 (yuv420p); the file appears whole or not at all.

    Odd sizes are padded to even ones by repeating the last row or column. One encoder thread: the same frames
    give the same bytes.

    Raises:
        DataError: no frames, or frames of different sizes.
    """
    rate = Fraction(fps).limit_denominator(1001)
    size: tuple[int, ...] | None = None
    muxer = {"movflags": "faststart"}
    # One thread, and no macroblock tree: x264's lookahead for it reads uninitialised memory, so bytes would vary.
    encoder = {"crf": "18", "preset": "medium", "threads": "1", "mbtree": "0"}
    with replacing(Path(path)) as temporary, av.open(f"file:{temporary}", "w", options=muxer) as file:
        stream = file.add_stream("libx264", rate=rate, options=encoder)
        for number, frame in enumerate(frames):
            if size is None:
                size = frame.shape
                stream.height, stream.width = (side + side % 2 for side in size[:2])
                stream.pix_fmt = "yuv420p"
                stream.codec_context.colorspace = stream.codec_context.color_primaries = 1  # BT.709
                stream.codec_context.color_trc = 1
                stream.codec_context.color_range = 1  # limited
            if frame.shape != size:
                raise DataError(f"{path}: frame {number} has the shape {frame.shape}, the first one {size}")
            even = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            picture.pts = number
            picture.time_base = 1 / rate
            file.mux(stream.encode(picture))
        if size is None:
            raise DataError(f"{path}: there are no frames to write")
        file.mux(stream.encode(None))
    return Path(path)


def _open_folder(folder: Path, fps: float) -> FolderSource:
    files = list(images_by_stem(folder).values())
    if not files:
        raise DataError(f"{folder}: no pictures in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
    size = image_size(files[0])
    for file in files[1:]:
        _check_size(str(file), image_size(file), size)
    return FolderSource(tuple(files), size, fps)


def _open_video(path: Path, fps: float | None) -> VideoSource:
    with _container(path) as (container, stream):
        timing = _Timing.read(container, stream)
    first = next(_decode(path, None), None)
    if first is None:
        raise DataError(f"{path}: the video has no frames")
    orientation = Orientation.of(first)
    size = (first.width, first.height) if orientation.transpose else (first.height, first.width)
    return VideoSource(path, size, fps or timing.fps, timing.frames, orientation, timing.shortfall)


@contextmanager
def _container(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        # The protocol is named because FFmpeg would take a name like "concat:a" for another one.
        container = av.open(f"file:{path}")
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: not a video, or cut off before its index ({error.strerror})") from error
    with container:
        cover = Disposition.attached_pic  # a sound file's picture
        pictures = [stream for stream in container.streams.video if not stream.disposition & cover]
        if container.format.name == "tty":  # FFmpeg would draw the text as video
            raise DataError(f"{path}: not a video but text")
        if not pictures:
            kinds = sorted({stream.type for stream in container.streams})
            raise DataError(f"{path}: no video in this file (it holds: {', '.join(kinds) or 'nothing'})")
        if pictures[0].width * pictures[0].height > MOST_PIXELS:
            raise DataError(f"{path}: its frames have more than the {MOST_PIXELS} pixels that are read")
        yield container, pictures[0]


def _decode(path: Path, shortfall: str | None) -> Iterator[av.VideoFrame]:
    """All frames in presentation order; an error in between is a DataError that counts the frames before it.

    Of a file with a shortfall, the frames that the decoder holds back for reordering until the end are left
    out: those they wait for may be missing, so that there would be gaps. PyAV's default threading (by slice)
    is kept: decoding whole frames in parallel loses errors near the end.
    """
    count = 0
    with _container(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if shortfall and not packet.size:  # the request to give out what is held back
                    return
                for frame in packet.decode():
                    yield frame
                    count += 1
        except av.error.FFmpegError as error:
            raise _cut_short(path, count, f"decoding fails: {error.strerror}") from error


@dataclass(frozen=True)
class _Timing:
    """What the packets of a stream tell without decoding them."""

    fps: float
    frames: int
    shortfall: str | None

    @classmethod
    def read(cls, container: av.container.InputContainer, stream: av.VideoStream) -> _Timing:
        """Average rate by the time stamps (a container may state a nominal one), and what is missing."""
        packets = hidden = 0
        shown: list[float] = []
        end = 0.0
        base = stream.time_base or Fraction(1)
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                packets += 1
                hidden += packet.is_discard
                if packet.pts is not None and not packet.is_discard:
                    shown.append(float(packet.pts * base))
                    end = max(end, float((packet.pts + (packet.duration or 0)) * base))
        except av.error.FFmpegError:
            pass  # the decoding pass says how far it comes
        shortfall = _shortfall(container, stream, packets, end)
        return cls(_average_rate(stream, [] if shortfall else shown), packets - hidden, shortfall)


def _average_rate(stream: av.VideoStream, shown: list[float]) -> float:
    stated = float(stream.average_rate or stream.guessed_rate or FOLDER_FPS)
    span = max(shown) - min(shown) if shown else 0.0
    if span <= 0:
        return stated
    measured = (len(shown) - 1) / span
    # Time stamps are rounded: within 2 % the stated rate is the exact one.
    return stated if abs(measured - stated) <= 0.02 * stated + 1 / span / len(shown) else measured


def _shortfall(container: av.container.InputContainer, stream: av.VideoStream, packets: int, end: float) -> str | None:
    # An mp4 is judged by its length: it also counts frames that its edit list cuts away.
    if stream.frames and "mp4" not in container.format.name:
        missing = stream.frames - packets
        return f"it states {stream.frames} frames" if missing > max(2, stream.frames // 50) else None
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


def _check_size(what: str, size: tuple[int, ...], expected: tuple[int, int]) -> None:
    if tuple(size) != tuple(expected):
        raise DataError(
            f"{what}: is {size[1]}x{size[0]} pixels, the first frame is {expected[1]}x{expected[0]}; "
            "all frames must have the same size"
        )


def _natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key: digits by value, text without case; the plain name decides between 1 and 01."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p.casefold()) for p in parts], path.name
