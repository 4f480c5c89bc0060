"""The tracker `file`: tracks that another program found, read from an .npz file. (This module takes paths.)

    tracks   (f, f', n, 2) numbers: (x, y) of point p of frame i in frame j; n = h w points, row-major
    visible  (f, f', n) bool
    size     (height, width) of the pictures that `tracks` counts the pixels of; left out where it counts cells

f' = f, or the length of the window: then j counts from the first frame of the window. Point p of a grid of h x w cells
begins at the centre of cell (p // w, p % w). The corner of the picture is (0, 0). Frames are read one at a time.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.errors import DataError
from pipeline.tracking.tracks import Clip, FrameTracks, frame_tracks, to_cells

#: What reading a damaged or foreign archive may raise.
BROKEN = (ValueError, OSError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class FileTracker:
    """Reads tracks from a file (format: module docstring)."""

    path: Path
    name: str = "file"
    needs_features: bool = False

    def stream(self, clip: Clip, asked: Sequence[int]) -> Iterator[FrameTracks]:
        """The tracks of the points of these frames.

        Raises:
            DataError: no such file, another format, or tracks of another clip or grid.
        """
        points = clip.grid[0] * clip.grid[1]
        with ExitStack() as opened:
            archive = opened.enter_context(_archive(self.path))
            tracks = _Rows(self.path, archive, "tracks", opened)
            visible = _Rows(self.path, archive, "visible", opened)
            size = _read_size(self.path, archive, opened)
            for rows, tail in ((tracks, (points, 2)), (visible, (points,))):
                wanted = [(len(clip.frames), targets, *tail) for targets in (len(clip.frames), len(clip.window_of(0)))]
                if rows.shape not in wanted:
                    shapes = " or ".join(str(shape) for shape in dict.fromkeys(wanted))
                    raise DataError(
                        f"{self.path}: `{rows.name}` has shape {rows.shape}; this clip, a grid of "
                        f"{clip.grid[0]}x{clip.grid[1]} and a window of {clip.window} need {shapes}"
                    )
            for frame in asked:
                window = clip.window_of(frame)
                xy, seen = tracks.row(frame), visible.row(frame).astype(bool)
                if len(xy) > len(window):
                    xy, seen = xy[window.start : window.stop], seen[window.start : window.stop]
                yx = xy[..., ::-1]
                seen = seen & np.isfinite(yx).all(axis=-1)
                cells = to_cells(yx, size, clip.grid) if size else to_cells(yx + 0.5, clip.grid, clip.grid)
                yield frame_tracks(frame, window, cells, seen, clip.grid)


class _Rows:
    """The rows of an array in an .npz file, ascending: only one is held."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, name: str, opened: ExitStack) -> None:
        self.name = name
        self._path = path
        try:
            self._stream: IO[bytes] = opened.enter_context(archive.open(f"{name}.npy"))
            version = np.lib.format.read_magic(self._stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, by_column, self._dtype = header(self._stream)
        except KeyError as error:
            raise DataError(f"{path}: holds no array `{name}`; expected `tracks`, `visible` and `size`") from error
        except BROKEN as error:
            raise DataError(f"{path}: `{name}` cannot be read ({error})") from error
        if by_column or self._dtype.kind not in "biuf":
            raise DataError(f"{path}: `{name}` must hold numbers row by row; save it with numpy.ascontiguousarray")
        self._next = 0

    def row(self, number: int) -> np.ndarray:
        shape = self.shape[1:]
        size = int(np.prod(shape)) * self._dtype.itemsize
        while True:
            try:
                data = self._stream.read(size)
            except BROKEN as error:
                raise DataError(f"{self._path}: `{self.name}` cannot be read ({error}); fetch it again") from error
            if len(data) < size:
                raise DataError(f"{self._path}: `{self.name}` ends early, at frame {self._next}; fetch it again")
            self._next += 1
            if self._next > number:
                return np.frombuffer(data, self._dtype).reshape(shape)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file of tracks; name one with track.file") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz file of tracks ({error})") from error


def _read_size(path: Path, archive: zipfile.ZipFile, opened: ExitStack) -> tuple[int, int] | None:
    if "size.npy" not in archive.namelist():
        return None
    rows = _Rows(path, archive, "size", opened)
    if rows.shape != (2,) or min(size := [int(rows.row(number)) for number in range(2)]) < 1:
        raise DataError(f"{path}: `size` must be two numbers, the height and width of the pictures")
    return size[0], size[1]
