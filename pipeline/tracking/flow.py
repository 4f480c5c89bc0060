"""The tracker `flow`: dense optical flow between neighbouring frames (OpenCV's DIS, Kroeger et al. 2016), chained.

Needs no network. A few milliseconds per frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.tracking.chain import Motion, Tolerance, chained
from pipeline.tracking.tracks import Clip, FrameTracks, Pictures

#: DIS finds flow at half the size of the frames and enlarges it: kept at half size, a window takes a quarter of the
#: memory.
HALF = 2
#: Sundaram et al. (2010), whose test this is, allow 0.5 pixels^2 of the frames.
TOLERANCE = Tolerance(relative=0.01, absolute=0.5 / HALF**2)
#: DIS begins with a small copy of the frames, for which it needs this many pixels a side; smaller ones are enlarged.
SMALLEST = 64


@dataclass(frozen=True)
class FlowTracker:
    """Follows points along optical flow; a point is lost where the flow back does not lead to where it came from."""

    name: str = "flow"
    needs_features: bool = False

    def stream(self, clip: Clip, asked: Sequence[int]) -> Iterator[FrameTracks]:
        return chained(clip, asked, lambda pair: neighbour_flow(clip.frames, pair), TOLERANCE)


def neighbour_flow(frames: Pictures, pair: int) -> Motion:
    """The flow between frames `pair` and `pair + 1`, at half the size of the frames and in its pixels."""
    pictures = frames[pair], frames[pair + 1]
    earlier, later = (_grey(picture) for picture in pictures)
    size = _half(pictures[0].shape)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # DIS hands stripes of the picture to threads, and their number shows in the result
    try:
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        nothing = np.zeros((*earlier.shape, 2), np.float32)  # where the search begins
        forward = np.asarray(dis.calc(earlier, later, nothing.copy()))
        backward = np.asarray(dis.calc(later, earlier, nothing.copy()))
    finally:
        cv2.setNumThreads(threads)
    return Motion(_displacement(forward, size), _displacement(backward, size))


def _half(size: tuple[int, ...]) -> tuple[int, int]:
    return -(-size[0] // HALF), -(-size[1] // HALF)


def _grey(frame: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    larger = max(height, SMALLEST), max(width, SMALLEST)
    return grey if larger == grey.shape else cv2.resize(grey, larger[::-1], interpolation=cv2.INTER_LINEAR)


def _displacement(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow (y, x) at `size` and in its pixels, from (x, y) in pixels of what DIS saw."""
    smaller = cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(smaller[..., ::-1]) * np.divide(size, flow.shape[:2], dtype=np.float32)
