"""Videos with an alpha channel, for compositing: Apple ProRes 4444 in QuickTime, VP9 in WebM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.errors import DataError
from pipeline.files import replacing
from pipeline.media.resize import resize_frame, resize_nearest
from pipeline.media.timing import timing


@dataclass(frozen=True)
class AlphaCodec:
    """How a video with alpha is encoded. FFmpeg's own decoder of VP9 leaves the alpha out; libvpx-vp9 does not.

    Attributes:
        states_aspect: whether the file can say that pixels are no squares; PyAV cannot make a WebM say so.
    """

    suffix: str
    encoder: str
    pixels: str
    options: dict[str, str]
    states_aspect: bool = True


#: One thread: the same frames give the same bytes.
CODECS = {
    "prores": AlphaCodec(
        ".mov", "prores_ks", "yuva444p10le",
        {"profile": "4444", "alpha_bits": "16", "vendor": "apl0", "threads": "1"},
    ),
    "vp9": AlphaCodec(
        ".webm", "libvpx-vp9", "yuva420p",
        {"crf": "15", "b": "0", "auto-alt-ref": "0", "threads": "1", "cpu-used": "4", "deadline": "good"},
        states_aspect=False,
    ),
}  # fmt: skip


def write_alpha_video(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float,
    codec: str,
    aspect: Fraction = Fraction(1),
    times: Sequence[float] | None = None,
) -> Path:
    """Write frames u8 (H, W, 4), RGB and straight alpha; the file appears whole or not at all.

    Args:
        codec: `prores` (alpha is kept exactly) or `vp9` (much smaller; alpha to within a few grey levels).
        aspect: width of a pixel by its height, which the file states; where it cannot, frames are made wider.
        times: seconds at which each frame is shown; None = at an even rate.

    Raises:
        DataError: no frames.
    """
    how, shown, count = CODECS[codec], timing(fps, times), 0
    with replacing(path) as temporary, av.open(f"file:{temporary}", "w") as file:
        stream: Any = file.add_stream(how.encoder, rate=shown.rate, options=how.options)
        stream.codec_context.time_base = shown.unit
        for count, stored in enumerate(frames, 1):
            frame = stored if how.states_aspect or aspect == 1 else _with_square_pixels(stored, aspect)
            if count == 1:
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = how.pixels
                if aspect != 1:
                    stream.codec_context.sample_aspect_ratio = aspect
                stream.codec_context.colorspace = stream.codec_context.color_primaries = 1  # BT.709
                stream.codec_context.color_trc = 1
                stream.codec_context.color_range = 1  # limited
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba")
            # One thread: of widths like 854, several leave eight pixels of alpha half transparent now and then.
            picture = picture.reformat(format=how.pixels, dst_colorspace="ITU709", dst_color_range="MPEG", threads=1)
            picture.pts, picture.duration = shown.of(count - 1)
            picture.time_base = shown.unit
            file.mux(stream.encode(picture))
        if not count:
            raise DataError(f"{path}: there are no frames to write")
        file.mux(stream.encode(None))
    return path


def _with_square_pixels(frame: np.ndarray, aspect: Fraction) -> np.ndarray:
    """A frame (H, W, 4) as wide as it is shown; its alpha keeps its values."""
    size = frame.shape[0], max(1, round(frame.shape[1] * aspect))
    return np.dstack([resize_frame(np.ascontiguousarray(frame[..., :3]), size), resize_nearest(frame[..., 3], size)])
