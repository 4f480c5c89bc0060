"""When the frames of a video that is written are shown: at an even rate, or each at a time of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

#: How far a frame may be from where an even rate has it, in frames: files round their time stamps.
EVEN = 0.1
#: The longest that files can show a frame, in their units.
LONGEST = 2**31 - 1


def frame_rate(fps: float) -> Fraction:
    """Frames per second as a fraction of small numbers, as files state it; below 1, of the seconds per frame."""
    return Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / Fraction(1 / fps).limit_denominator(1001)


@dataclass(frozen=True)
class Timing:
    """Time stamps of frames.

    Attributes:
        rate: frames per second, on average.
        unit: seconds of a time stamp.
        stamps: of all frames; None = frame n has the stamp n.
    """

    rate: Fraction
    unit: Fraction
    stamps: Sequence[int] | None = None

    def of(self, number: int) -> tuple[int, int]:
        """The time stamp of a frame, and how many units it is shown; the last one as long as frames usually are."""
        if self.stamps is None:
            return number, 1
        following = number + 1
        if following < len(self.stamps):
            return self.stamps[number], self.stamps[following] - self.stamps[number]
        return self.stamps[number], max(1, round(1 / self.rate / self.unit))


def timing(fps: float, times: Sequence[float] | None = None) -> Timing:
    """The time stamps that show frames at an even rate, or, where their own times differ from that, at these.

    Args:
        fps: average rate, any above 0.
        times: seconds of each frame, ascending; None = none has a time of its own.
    """
    if times is None or len(times) < 2 or _is_even(times, fps):
        rate = frame_rate(fps)
        return Timing(rate, 1 / rate)
    largest = max(later - earlier for earlier, later in pairwise(times))
    unit = Fraction(1, 90000) if largest * 90000 <= LONGEST else Fraction(1, 1000)
    stamps = [0]
    for time in times[1:]:
        stamps.append(max(stamps[-1] + 1, round((time - times[0]) / unit)))
    return Timing(frame_rate((len(times) - 1) / (times[-1] - times[0])), unit, stamps)


def _is_even(times: Sequence[float], fps: float) -> bool:
    step = (times[-1] - times[0]) / (len(times) - 1)
    if step <= 0:
        return True
    return abs(step * fps - 1) <= 0.01 and all(
        abs(time - times[0] - number * step) <= EVEN * step for number, time in enumerate(times)
    )
