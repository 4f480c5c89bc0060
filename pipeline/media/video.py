"""Frames in and out: videos through PyAV, folders of pictures, H.264 files.

A `FrameSource` streams: one frame in memory at a time, whatever the length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.errors import DataError
from pipeline.files import replacing
from pipeline.media.frame_source import FrameRange, FrameSource, Notes, Reading, SourceFrame
from pipeline.media.pictures import by_stem, image_size, read_image
from pipeline.media.video_file import USUAL_FPS, open_video

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

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
            index = indices.start + number * indices.stride
            yield SourceFrame(index, file.stem, image, index / self.fps)


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
