"""Where a video is cut from one shot to the next: what PySceneDetect finds in frames as they come."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.errors import UsageError
from pipeline.parameters import IngestParams, choices

DETECTORS = choices(IngestParams, "cut_detector")

#: Pixels of the longer side at which frames are compared, as PySceneDetect does itself.
SIDE = 256
#: Frames of the shortest shot: a flash of one or two frames is at most one cut.
SHORTEST = 3
#: What PySceneDetect is told. It only counts frames.
_FPS = 25.0


class CutDetector:
    """Finds cuts in the frames of a clip, which arrive in order.

    Args:
        detector: `adaptive`, a change that is much larger than those of the two frames before and after; `content`, a
            change that is large.
        threshold: how much larger, or how large on a scale of 255; None = PySceneDetect's own, 3 and 27.

    Raises:
        UsageError: there is no such detector.
    """

    def __init__(self, detector: str, threshold: float | None = None) -> None:
        # Here, since few need it and it takes a third of a second.
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        if detector not in DETECTORS:
            raise UsageError(f"ingest.cut_detector must be one of {', '.join(DETECTORS)}, not '{detector}'")
        self._detector = (
            AdaptiveDetector(3.0 if threshold is None else threshold, SHORTEST)
            if detector == "adaptive"
            else ContentDetector(27.0 if threshold is None else threshold, SHORTEST)
        )
        self._seen = 0
        self._found: set[int] = set()

    def add(self, image: np.ndarray) -> None:
        """The next frame (H, W, 3) u8, RGB."""
        from scenedetect.common import FrameTimecode

        height, width = image.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        found = self._detector.process_frame(FrameTimecode(self._seen, fps=_FPS), small)
        self._found.update(cut.frame_num for cut in found)
        self._seen += 1

    @property
    def cuts(self) -> tuple[int, ...]:
        """Positions of the frames seen so far that begin a shot, but for the first one; in order."""
        return tuple(sorted(self._found))
