"""What frames are read from: ranges, frames, sources, how a file is read, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

from pipeline.errors import UsageError
from pipeline.spans import parse_span


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

    def of(self, total: int) -> range:
        """The frames of a source of `total` frames that are in the range."""
        return range(total)[self.start : self.stop : self.stride]

    def count(self, total: int) -> int:
        """How many frames of a source of `total` frames are in the range."""
        return len(self.of(total))

    def ends_at(self, index: int) -> bool:
        """Whether neither `index` nor any later frame is in the range."""
        return self.stop is not None and index >= self.stop


@dataclass(frozen=True)
class SourceFrame:
    """One frame: its position in the source, its name, its pixels u8 (H0, W0, 3), RGB.

    Attributes:
        time: seconds after the source's first frame at which it is shown.
    """

    index: int
    name: str
    image: np.ndarray
    time: float = 0.0


@dataclass(frozen=True)
class Reading:
    """How a file is read where there is a choice: the parameters of `ingest` with these names.

    Attributes:
        stream: number of the video stream in its file; None = the default one, else the largest.
        damaged: frames that cannot be decoded are refused, skipped, or the frame before is repeated.
        hdr: videos of high dynamic range are tone-mapped, or their values taken as they are.
        deinterlace: interlaced frames are deinterlaced, or kept as they are.
    """

    stream: int | None = None
    damaged: Literal["refuse", "skip", "repeat"] = "refuse"
    hdr: Literal["tonemap", "asis"] = "tonemap"
    deinterlace: Literal["auto", "never"] = "auto"


@dataclass(frozen=True)
class Note:
    """A line for the user about an input.

    Attributes:
        warns: something that was given is left out, replaced or guessed; else it is only told how it is read.
    """

    text: str
    warns: bool = True


@dataclass
class Notes:
    """Notes on one source, each once, in the order in which they were met."""

    found: list[Note] = field(default_factory=list)

    def add(self, text: str, warns: bool = True) -> None:
        """Note something, if it is not noted yet."""
        note = Note(text, warns)
        if note not in self.found:
            self.found.append(note)


class FrameSource(Protocol):
    """Something that frames can be read from, any number of times.

    Attributes:
        fps: average frames per second.
        size: (H0, W0) of the upright frames.
        aspect: width of a pixel by its height, as the upright frames are shown.
        expected: number of frames as far as it is known before decoding; for progress and estimates.
        notes: what there is to say; complete after a pass over the frames.
        timed: whether the frames' times are their own; else they follow from the rate.
    """

    @property
    def fps(self) -> float: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def aspect(self) -> Fraction: ...

    @property
    def expected(self) -> int: ...

    @property
    def notes(self) -> Notes: ...

    @property
    def timed(self) -> bool: ...

    def frames(self, indices: FrameRange = ...) -> Iterator[SourceFrame]:
        """The frames of a range in presentation order.

        Raises:
            DataError: a frame cannot be read or has another size, or the range holds none.
        """
        ...


def square_size(source: FrameSource) -> tuple[int, int]:
    """(height, width) of a source's frames where their pixels are shown as squares.

    An aspect within 5 % of 1 counts as 1.
    """
    height, width = source.size
    return (height, width) if abs(source.aspect - 1) <= Fraction(1, 20) else (height, round(width * source.aspect))


def number_list(numbers: list[int], most: int = 8) -> str:
    """Numbers in words, runs of them as one: "3, 5-9 and 12 more"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:most]]
    rest = sum(last - first + 1 for first, last in runs[most:])
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
