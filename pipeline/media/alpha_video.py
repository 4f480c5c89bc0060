"""Videos with an alpha channel, for compositing: Apple ProRes 4444 in QuickTime, VP9 in WebM."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.errors import DataError
from pipeline.files import replacing
from pipeline.media.video import frame_rate


@dataclass(frozen=True)
class AlphaCodec:
    """How a video with alpha is encoded. FFmpeg's own decoder of VP9 leaves the alpha out; libvpx-vp9 does not."""

    suffix: str
    encoder: str
    pixels: str
    options: dict[str, str]


#: One thread: the same frames give the same bytes.
CODECS = {
    "prores": AlphaCodec(
        ".mov", "prores_ks", "yuva444p10le",
        {"profile": "4444", "alpha_bits": "16", "vendor": "apl0", "threads": "1"},
    ),
    "vp9": AlphaCodec(
        ".webm", "libvpx-vp9", "yuva420p",
        {"crf": "15", "b": "0", "auto-alt-ref": "0", "threads": "1", "cpu-used": "4", "deadline": "good"},
    ),
}  # fmt: skip


def write_alpha_video(path: Path, frames: Iterable[np.ndarray], fps: float, codec: str) -> Path:
    """Write frames u8 (H, W, 4), RGB and straight alpha; the file appears whole or not at all.

    Args:
        codec: `prores` (alpha is kept exactly) or `vp9` (much smaller; alpha to within a few grey levels).

    Raises:
        DataError: no frames.
    """
    how, rate, count = CODECS[codec], frame_rate(fps), 0
    with replacing(path) as temporary, av.open(f"file:{temporary}", "w") as file:
        stream: Any = file.add_stream(how.encoder, rate=rate, options=how.options)
        for count, frame in enumerate(frames, 1):
            if count == 1:
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = how.pixels
                stream.codec_context.colorspace = stream.codec_context.color_primaries = 1  # BT.709
                stream.codec_context.color_trc = 1
                stream.codec_context.color_range = 1  # limited
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba")
            picture = picture.reformat(format=how.pixels, dst_colorspace="ITU709", dst_color_range="MPEG")
            picture.pts, picture.time_base = count - 1, 1 / rate
            file.mux(stream.encode(picture))
        if not count:
            raise DataError(f"{path}: there are no frames to write")
        file.mux(stream.encode(None))
    return path
