"""Which frames of a clip a page shows, and how large, so that the file stays below its limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: No page is larger. What the frames take may be less than that: text, charts and slices come to it.
MOST_BYTES = 20_000_000
_FOR_FRAMES = 0.8 * MOST_BYTES

#: The longer side of pictures: of short clips, and of clips that would not fit so.
SIDES = (960, 640)

#: Frames that tell how much room one takes.
_SAMPLED = 5


@dataclass(frozen=True)
class Thinning:
    """What a page shows of a clip: every `step`-th of `total` frames, at a longer side of at most `side` pixels."""

    total: int
    step: int
    side: int

    @property
    def shown(self) -> range:
        """Positions of the frames that are shown."""
        return range(0, self.total, self.step)

    def coarser(self) -> Thinning:
        """Half as many frames."""
        return Thinning(self.total, self.step * 2, self.side)


def sampled(total: int) -> list[int]:
    """Positions of the frames whose size is measured, evenly spread."""
    return sorted({round(number * (total - 1) / max(1, _SAMPLED - 1)) for number in range(_SAMPLED)})


def thinning(total: int, bytes_at: Callable[[int], float], limit: float = _FOR_FRAMES) -> Thinning:
    """The largest pictures, and then the most frames, that fit.

    Args:
        bytes_at: gives what a frame takes in the page at a longer side of so many pixels.
        limit: bytes for all frames together.
    """
    for side in SIDES:
        if total * bytes_at(side) <= limit:
            return Thinning(total, 1, side)
    return Thinning(total, math.ceil(total * bytes_at(SIDES[-1]) / limit), SIDES[-1])
