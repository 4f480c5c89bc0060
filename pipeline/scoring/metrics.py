"""Confusion scores and video consistency, streaming: one frame at a time, memory independent of the frames.

Both take what `pipeline.scoring.protocol` decodes. Undefined scores (0/0, mean of nothing) are NaN here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError
from pipeline.scoring.protocol import Decoded


@dataclass(frozen=True, eq=False)
class ConfusionScores:
    """Scores of one confusion table.

    Attributes:
        miou, class_accuracy: means over the classes that the ground truth holds; NaN if it holds none.
        pixel_accuracy: share of right pixels; NaN without scored pixels.
        fwiou: IoU weighted by the classes' share of the ground truth; 0.0 without scored pixels.
        iou: (C+1,) per class, NaN for 0/0; the last entry is *none*. A class only predicted has IoU 0.
        present: (C+1,) whether the ground truth holds the class; the last entry is False.
    """

    miou: float
    pixel_accuracy: float
    class_accuracy: float
    fwiou: float
    iou: np.ndarray
    present: np.ndarray


class Confusion:
    """Counts n[i][j] of pixels with ground truth i and prediction j; tables of the same classes add up.

    Attributes:
        counts: (C+1, C+1) int64. Row C is ignored ground truth (never scored), column C *none* predictions.
    """

    def __init__(self, num_classes: int, counts: np.ndarray | None = None) -> None:
        size = num_classes + 1
        self.num_classes = num_classes
        self.counts = np.zeros((size, size), np.int64) if counts is None else counts

    @classmethod
    def of(cls, frame: Decoded, num_classes: int) -> Confusion:
        """The table of one frame."""
        size = num_classes + 1
        joint = frame.truth.astype(np.intp)
        joint *= size
        joint += frame.prediction
        return cls(num_classes, np.bincount(joint.ravel(), minlength=size * size).reshape(size, size))

    def __iadd__(self, other: Confusion) -> Confusion:
        self.counts += other.counts
        return self

    @property
    def scored_pixels(self) -> int:
        """Number of pixels whose ground truth counts."""
        return int(self.counts[:-1].sum())

    @property
    def predicted_none(self) -> bool:
        """Whether any prediction, on ignored pixels too, was *none*."""
        return bool(self.counts[:, -1].any())

    def scores(self) -> ConfusionScores:
        """mIoU, accuracies and frequency-weighted IoU of the pixels counted so far."""
        scored = self.counts.copy()
        scored[-1] = 0
        right = np.diag(scored).astype(np.float64)
        truth = scored.sum(axis=1)
        total = int(truth.sum())
        iou = _ratio(right, truth + scored.sum(axis=0) - right)
        present = truth > 0
        return ConfusionScores(
            miou=_mean(iou[present]),
            pixel_accuracy=float(right.sum() / total) if total else math.nan,
            class_accuracy=_mean(_ratio(right, truth)[present]),
            fwiou=float((truth[present] / total * iou[present]).sum()) if total else 0.0,
            iou=iou,
            present=present,
        )


@dataclass(frozen=True)
class Window:
    """One window of n frames: pixels of constant ground truth, and those of them with constant prediction."""

    area: int
    common: int

    @property
    def ratio(self) -> float:
        """VC_n of this window; NaN if nothing is constant in the ground truth."""
        return self.common / self.area if self.area else math.nan


class Consistency:
    """Video consistency VC_n of one video, for any number of window lengths in one pass.

    For each pixel two counters say for how many frames the ground truth and the prediction have not changed:
    a window of n frames has a common area where the counter is at least n. Prediction is compared with
    prediction, never with the ground truth. As published, a video of F frames has F - n windows: the last
    possible one is not used.

    Args:
        lengths: the window lengths n.

    Attributes:
        windows: n -> the windows so far, in order.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        bad = [n for n in lengths if n < 1]
        if bad:
            raise DataError(f"window length {bad[0]}: video consistency needs windows of at least 1 frame")
        self.windows: dict[int, list[Window]] = {n: [] for n in lengths}
        self._longest = max(lengths, default=1)
        self.restart()

    def restart(self) -> None:
        """Declare a gap: no window reaches across it."""
        self._seen = 0
        self._truth, self._prediction = _Runs(self._longest), _Runs(self._longest)

    def update(self, frame: Decoded) -> None:
        """Add the next frame.

        Raises:
            DataError: it has another size than the one before.
        """
        # A window counts only once a further frame exists, so it is read off before the counters advance.
        for n, windows in self.windows.items():
            if self._seen >= n:
                area = self._truth.lengths >= n
                common = area & (self._prediction.lengths >= n)
                windows.append(Window(int(np.count_nonzero(area)), int(np.count_nonzero(common))))
        self._truth.update(frame.truth_area)
        self._prediction.update(frame.prediction_area)
        if frame.valid is not None:
            self._truth.lengths *= frame.valid
        self._seen += 1


class _Runs:
    """For each pixel, how many frames its value has not changed; counting stops at `cap`."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._values: np.ndarray | None = None
        self.lengths = np.empty((0, 0), np.uint8 if cap <= 255 else np.uint32)

    def update(self, values: np.ndarray) -> None:
        if self._values is None:
            self.lengths = np.ones(values.shape, self.lengths.dtype)
        elif self._values.shape != values.shape:
            (height, width), (h, w) = self._values.shape, values.shape
            raise DataError(f"label map of {w}x{h} after {width}x{height}; the frames of a video must have one size")
        else:
            np.minimum(self.lengths, self._cap - 1, out=self.lengths)  # must not wrap
            self.lengths *= values == self._values
            self.lengths += 1
        self._values = values


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return math.fsum(values) / len(values) if len(values) else math.nan
