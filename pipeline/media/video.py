"""Frames in and out: videos through PyAV, folders of pictures, H.264 files.

A `FrameSource` streams: one frame in memory at a time, whatever the length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.errors import DataError
from pipeline.files import replacing
from pipeline.media.animation import is_animated, open_animation
from pipeline.media.frame_source import FrameRange, FrameSource, Notes, Reading, SourceFrame
from pipeline.media.packet_timing import USUAL_FPS
from pipeline.media.pictures import by_stem, image_size, read_image
from pipeline.media.timing import timing
from pipeline.media.video_file import open_video

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pnm", ".jp2", ".j2k"}
    | {".heic", ".heif"}
)

#: Pictures that are not read: left out of a folder without a word, they would be frames that are missing.
_OTHER_PICTURES = frozenset(
    {".gif", ".apng", ".jxl", ".psd", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".tga", ".dpx", ".jfif"}
    | {".jpe", ".jpx", ".pbm", ".pcx", ".sgi", ".avifs", ".heics"}
)

#: By which a folder tells that a file in it is a video.
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"}
)

#: Frames per second of a folder of pictures, unless the caller knows better.
FOLDER_FPS = USUAL_FPS


def open_source(path: Path, fps: float | None = None, reading: Reading = Reading()) -> FrameSource:
    """Open a video, a folder of pictures, or a single picture.

    Args:
        fps: overrides what a video says, and `FOLDER_FPS` of a folder.
        reading: what a video's frames are taken as where there is a choice.

    Raises:
        DataError: missing, not a video, without frames, or a folder whose pictures do not fit together.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, fps or FOLDER_FPS)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        if animated := open_animation(path, fps):
            return animated
        return FolderSource((path,), image_size(path), fps or FOLDER_FPS)
    return open_video(path, fps, reading)


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
    aspect: Fraction = Fraction(1)
    notes: Notes = field(default_factory=Notes, compare=False)
    timed: bool = False

    @property
    def expected(self) -> int:
        """The number of pictures."""
        return len(self.files)

    def frames(self, indices: FrameRange = FrameRange()) -> Iterator[SourceFrame]:
        """See `FrameSource.frames`."""
        chosen = indices.of(len(self.files))
        if not chosen:
            raise DataError(f"ingest.frames: {indices} selects none of the {len(self.files)} frames")
        for index in chosen:
            file = self.files[index]
            image = read_image(file)
            _check_size(str(file), image.shape[:2], self.size)
            yield SourceFrame(index, file.stem, image, index / self.fps)


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float,
    aspect: Fraction = Fraction(1),
    times: Sequence[float] | None = None,
) -> Path:
    """Write frames u8 (H, W, 3), RGB, as an H.264 mp4 (yuv420p); the file appears whole or not at all.

    Odd sizes are padded to even ones by repeating the last row or column. One encoder thread: the same frames
    give the same bytes.

    Args:
        fps: any rate above 0, also one frame a day.
        aspect: width of a pixel by its height, which the file states.
        times: seconds at which each frame is shown; None = at an even rate.

    Raises:
        DataError: no frames, or frames of different sizes.
    """
    shown = timing(fps, times)
    size: tuple[int, ...] | None = None
    muxer = {"movflags": "faststart"}
    if shown.rate < Fraction(1, 1000) or shown.unit == Fraction(
        1, 1000
    ):  # a frame must not last longer than 2^31 of the muxer's units
        muxer["video_track_timescale"] = "1000"
    # `faster` takes 0.6 times as long as `medium`, for a twentieth more room and 0.3 dB less.
    # One thread, and no macroblock tree: x264's lookahead for it reads uninitialised memory, so bytes would vary.
    encoder = {"crf": "18", "preset": "faster", "threads": "1", "mbtree": "0"}
    if shown.stamps is not None:
        encoder["bf"] = "0"  # the file would state a wrong length where frames that are shown unevenly are reordered
    with replacing(Path(path)) as temporary, av.open(f"file:{temporary}", "w", options=muxer) as file:
        stream = file.add_stream("libx264", rate=shown.rate, options=encoder)
        stream.codec_context.time_base = shown.unit
        for number, frame in enumerate(frames):
            if size is None:
                size = frame.shape
                stream.height, stream.width = (side + side % 2 for side in size[:2])
                stream.pix_fmt = "yuv420p"
                if aspect != 1:
                    stream.codec_context.sample_aspect_ratio = aspect
                stream.codec_context.colorspace = stream.codec_context.color_primaries = 1  # BT.709
                stream.codec_context.color_trc = 1
                stream.codec_context.color_range = 1  # limited
            if frame.shape != size:
                raise DataError(f"{path}: frame {number} has the shape {frame.shape}, the first one {size}")
            even = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            picture.pts, picture.duration = shown.of(number)
            picture.time_base = shown.unit
            file.mux(stream.encode(picture))
        if size is None:
            raise DataError(f"{path}: there are no frames to write")
        file.mux(stream.encode(None))
    return Path(path)


def _open_folder(folder: Path, fps: float) -> FolderSource:
    files = list(images_by_stem(folder).values())
    if not files:
        raise DataError(f"{folder}: no pictures in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
    present = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_natural)
    others = [path.name for path in present if path.suffix.lower() in _OTHER_PICTURES]
    if others:
        raise DataError(
            f"{folder}: {_some(others)} would be left out, because the format is not read; convert to PNG, or move away"
        )
    size = image_size(files[0])
    for file in files[1:]:
        _check_size(str(file), image_size(file), size)
    source = FolderSource(tuple(files), size, fps)
    for names, why in (
        ([path.name for path in present if path.suffix.lower() in VIDEO_SUFFIXES], "left out: videos among pictures"),
        ([path.name for path in files if is_animated(path)], "taken as one picture each: of its frames the first"),
    ):
        if names:
            source.notes.add(f"{_some(names)} {'is' if len(names) == 1 else 'are'} {why}")
    return source


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


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
