"""The video with all but the chosen segments transparent, for compositing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.export.labelled_clip import Advance, LabelledClip
from pipeline.media.alpha_video import CODECS, write_alpha_video


def write_alpha(clip: LabelledClip, folder: Path, advance: Advance, codec: str = "prores") -> None:
    """alpha.mov or alpha.webm: the source's frames whole, and an alpha that is opaque in the segments alone."""
    opaque = np.zeros(65536, np.uint8)
    opaque[[segment.id for segment in clip.segments]] = 255

    def frames() -> Iterator[np.ndarray]:
        for image, plane in zip(clip.pictures.images(), clip.planes(), strict=True):
            yield np.dstack([image, opaque[plane]])
            advance(1)

    pictures = clip.pictures
    write_alpha_video(folder / alpha_file(codec), frames(), pictures.fps, codec, pictures.aspect, pictures.times)


def alpha_file(codec: str) -> str:
    """The name of the video."""
    return f"alpha{CODECS[codec].suffix}"
