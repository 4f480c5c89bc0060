"""From decoded frames to RGB: every matrix, transfer function and set of primaries that a video may be tagged with.

FFmpeg's swscale converts the common ones. The numbers are those of ITU-T H.273, tables 2 to 4.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat

from pipeline.errors import DataError
from pipeline.media.frame_source import Notes

#: Matrices that swscale converts, with "unspecified", which it reads as BT.601.
_SUPPORTED = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
_BT709, _UNSPECIFIED, _YCGCO, _BT2020 = 1, 2, 8, 9
_BT2020_PRIMARIES = 9
#: Tags of matrices that it does not convert.
_NAMES = {
    3: "reserved", 8: "YCgCo", 10: "BT.2020 constant luminance", 11: "SMPTE ST 2085", 12: "chromaticity-derived",
    13: "chromaticity-derived constant luminance", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro",
}  # fmt: skip
#: Transfer functions of high dynamic range: their tag, FFmpeg's name, the user's name.
_HDR = {16: ("smpte2084", "PQ"), 18: ("arib-std-b67", "HLG")}


class Colours:
    """Turns the frames of one video into RGB, with notes on what is not taken as it is tagged.

    Args:
        where: names the video in messages.
        hdr: `tonemap` (to BT.709, by libavfilter's `scale`) or `asis`, of frames that are tagged PQ or HLG.
    """

    def __init__(self, where: str, hdr: str, notes: Notes) -> None:
        self._where, self._hdr, self._notes = where, hdr, notes

    def rgb(self, frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
        """A frame as RGB u8 (h, w, 3); at `size` (h, w) where one is given.

        Raises:
            DataError: its matrix, or its pixel format, cannot be converted.
        """
        height, width = size or (frame.height, frame.width)
        coloured = not frame.format.is_rgb and len(frame.format.components) >= 3
        try:
            if coloured:
                self._choose_matrix(frame)
            if int(frame.color_trc) in _HDR and frame.format.components[0].bits > 8:
                frame = self._tone_mapped(frame)
            elif coloured and int(frame.colorspace) == _YCGCO:
                return _from_ycgco(frame, height, width)
            return frame.to_ndarray(format="rgb24", width=width, height=height)
        except (OSError, ValueError) as error:  # swscale's "Operation not supported" is an OSError
            tags = f"matrix {int(frame.colorspace)}, transfer {int(frame.color_trc)}"
            raise DataError(
                f"{self._where}: pixels of the format {frame.format.name} ({tags}, primaries "
                f"{int(frame.color_primaries)}) cannot be converted to RGB ({error}); convert it to yuv420p, BT.709"
            ) from error

    def _choose_matrix(self, frame: av.VideoFrame) -> None:
        """Replace a matrix that swscale does not know by the nearest one that it does."""
        tag = int(frame.colorspace)
        if tag in _SUPPORTED:
            return
        named = f"matrix_coefficients {tag}" + (f" ({_NAMES[tag]})" if tag in _NAMES else "")
        if tag == _YCGCO:
            self._notes.add(f"its colours are tagged with {named}, and converted as such", warns=False)
            return
        if tag == 3:
            nearest, name = _UNSPECIFIED, "BT.601"
        elif tag == 10 or (tag in (12, 13) and int(frame.color_primaries) == _BT2020_PRIMARIES):
            nearest, name = _BT2020, "BT.2020 with non-constant luminance"
        elif tag in (12, 13):
            nearest, name = _BT709, "BT.709"
        else:
            raise DataError(
                f"{self._where}: its colours are tagged with {named}, which cannot be converted to RGB; "
                "convert the video to BT.709 first"
            )
        self._notes.add(f"its colours are tagged with {named}; they are read as {name}, the nearest that is known")
        frame.colorspace = nearest

    def _tone_mapped(self, frame: av.VideoFrame) -> av.VideoFrame:
        transfer, name = _HDR[int(frame.color_trc)]
        if self._hdr == "asis":
            self._notes.add(f"high dynamic range ({name}), whose values are taken as they are", warns=False)
            return frame
        self._notes.add(
            f"high dynamic range ({name}), tone-mapped to BT.709; ingest.hdr: asis takes the values as they are",
            warns=False,
        )
        frame.pts = None
        graph = _tone_mapper(frame.width, frame.height, frame.format.name, transfer)
        graph.push(frame)
        mapped: Any = graph.pull()
        return mapped


_TONE_MAPPERS: dict[tuple[int, int, str, str], Graph] = {}


def _tone_mapper(width: int, height: int, pixels: str, transfer: str) -> Graph:
    """A filter graph to BT.709 in RGB. Making its tables takes seconds, so that the latest one is kept."""
    key = (width, height, pixels, transfer)
    if key not in _TONE_MAPPERS:
        _TONE_MAPPERS.clear()
        to = f"in_transfer={transfer}:out_transfer=bt709:out_primaries=bt709:out_range=pc"
        _TONE_MAPPERS[key] = filter_graph(width, height, pixels, [("scale", to), ("format", "rgb24")])
    return _TONE_MAPPERS[key]


def filter_graph(
    width: int, height: int, pixels: str, filters: list[tuple[str, str]], time_base: Fraction = Fraction(1, 1000)
) -> Graph:
    """A chain of libavfilter's filters (name, arguments) for frames of one size (in pixels) and pixel format."""
    graph = Graph()
    last: Any = graph.add_buffer(
        width=width, height=height, format=VideoFormat(pixels, width, height), time_base=time_base
    )
    for name, arguments in [*filters, ("buffersink", "")]:
        following = graph.add(name, arguments) if arguments else graph.add(name)
        last.link_to(following)
        last = following
    graph.configure()
    return graph


def _from_ycgco(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    """RGB of Y, Cg, Co (H.273, equations 57 to 60), in limited or full range."""
    frame.colorspace = _BT709  # the same on both sides: chroma is enlarged, values stay
    full = int(frame.color_range) == 2
    planes = frame.reformat(width, height, "yuv444p", dst_color_range="JPEG" if full else "MPEG").to_ndarray()
    luma, green, orange = planes.astype(np.int16)
    green, orange = green - 128, orange - 128
    rgb = np.stack([luma - green + orange, luma + green, luma - green - orange], axis=-1).astype(np.float32)
    if not full:
        rgb = (rgb - 16) * (255 / 219)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
