"""Pictures that hold several frames: animated WebP and PNG, AVIF sequences, stacks of TIFF pages; by Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from pipeline.errors import DataError
from pipeline.media.frame_source import FrameRange, Notes, SourceFrame
from pipeline.media.packet_timing import USUAL_FPS
from pipeline.media.pictures import image_size, opened_picture, pixels_of

#: Formats whose further pictures are frames; a JPEG's (MPO) are other views or previews.
_FORMATS = frozenset({"WEBP", "PNG", "AVIF", "TIFF"})


@dataclass(frozen=True)
class AnimationSource:
    """The frames of one picture file, named by their five-digit index.

    Attributes:
        times: seconds at which the frames are shown.
        timed: whether the file says so.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    times: tuple[float, ...]
    timed: bool = False
    aspect: Fraction = Fraction(1)
    notes: Notes = field(default_factory=Notes, compare=False)

    @property
    def expected(self) -> int:
        """The number of frames."""
        return len(self.times)

    def frames(self, indices: FrameRange = FrameRange()) -> Iterator[SourceFrame]:
        """See `FrameSource.frames`."""
        chosen = indices.of(len(self.times))
        if not chosen:
            raise DataError(f"ingest.frames: {indices} selects none of the {len(self.times)} frames of {self.path}")
        with opened_picture(self.path) as image:
            for number in chosen:
                image.seek(number)
                pixels = pixels_of(self.path, image)
                if pixels.shape[:2] != self.size:
                    raise DataError(
                        f"{self.path}: frame {number} is {pixels.shape[1]}x{pixels.shape[0]} pixels, the first one "
                        f"{self.size[1]}x{self.size[0]}; use what fits: ingest.frames: 0:{number}"
                    )
                yield SourceFrame(number, f"{number:05d}", pixels, self.times[number])


def is_animated(path: Path) -> bool:
    """Whether a picture file holds several frames.

    Raises:
        DataError: missing or not a picture.
    """
    with opened_picture(path) as image:
        return image.format in _FORMATS and getattr(image, "n_frames", 1) > 1


def open_animation(path: Path, fps: float | None) -> AnimationSource | None:
    """The frames of a picture file; None = it is a single picture.

    Args:
        fps: overrides what it says; a TIFF says nothing, and has 25.

    Raises:
        DataError: missing, not a picture, or damaged.
    """
    if not is_animated(path):
        return None
    times, timed = [0.0], False
    with opened_picture(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            if image.format in ("WEBP", "AVIF"):  # whose durations are known once a frame is decoded
                image.load()
            milliseconds = 0.0 if fps else float(image.info.get("duration") or 0)
            timed = timed or milliseconds > 0
            times.append(times[-1] + (milliseconds / 1000 or 1 / (fps or USUAL_FPS)))
    return AnimationSource(path, image_size(path), fps or (len(times) - 1) / times[-1], tuple(times[:-1]), timed)
