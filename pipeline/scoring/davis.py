"""DAVIS scores: region similarity J and contour accuracy F, for semi-supervised and unsupervised results.

Perazzi et al. 2016 (measures), Pont-Tuset et al. 2017 (several objects), Caelles et al. 2019 (unsupervised
matching), as published in the DAVIS 2017 evaluation package. Frames are read one at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np

from pipeline.errors import DataError

VOID = 255
MAX_PROPOSALS = 20


class Frames(Protocol):
    """Label maps that can be read one at a time: an array (F, H, W), or anything that indexes like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Statistics:
    """One number per result: mean, recall (share above 0.5), decay (first minus last quarter)."""

    mean: tuple[float, ...]
    recall: tuple[float, ...]
    decay: tuple[float, ...]

    @property
    def overall(self) -> float:
        """Mean over the results; NaN without any."""
        return math.fsum(self.mean) / len(self.mean) if self.mean else math.nan


@dataclass(frozen=True, eq=False)
class DavisScores:
    """J and F of each result in each scored frame, both (results, frames).

    A result is an object (semi-supervised, in the order of the object ids) or a matched proposal
    (unsupervised, in the order of the proposals).
    """

    region: np.ndarray
    contour: np.ndarray

    @property
    def j(self) -> Statistics:
        return statistics(self.region)

    @property
    def f(self) -> Statistics:
        return statistics(self.contour)

    @property
    def jf_mean(self) -> float:
        return (self.j.overall + self.f.overall) / 2


def semi_supervised(truth: Frames, prediction: Frames) -> DavisScores:
    """Score object k against predicted label k, from the second to the last but one frame.

    Void is background here.

    Args:
        truth, prediction: (F, H, W) object ids, 0 background; 255 in the truth is void.

    Raises:
        DataError: fewer than three frames, different sizes, or a predicted id above the objects of frame 0.
    """
    frames = _frame_count(truth, prediction)
    if frames < 3:
        raise DataError(f"semi-supervised J and F need three frames (the first and last are left out), not {frames}")
    objects = _objects(truth[0])
    region = np.zeros((objects, frames - 2))
    contour = np.zeros((objects, frames - 2))
    for f in range(1, frames - 1):
        labels, _, predicted = _frame(truth, prediction, f)
        if predicted.max(initial=0) > objects:
            raise DataError(
                f"frame {f}: object {int(predicted.max())} is predicted, but the first frame has {objects} "
                "objects; semi-supervised results may only use their ids"
            )
        for k in range(1, objects + 1):
            true_mask, mask = labels == k, predicted == k
            region[k - 1, f - 1] = region_similarity(true_mask, mask)
            contour[k - 1, f - 1] = contour_accuracy(true_mask, mask)
    return DavisScores(region, contour)


def unsupervised(truth: Frames, prediction: Frames) -> DavisScores:
    """Match proposals to objects one-to-one by the largest sum of (J + F) / 2 over all frames.

    Void is left out.

    Args:
        truth, prediction: (F, H, W) object ids, 0 background; 255 in the truth is void. Each id of the
            prediction is a proposal, 255 included.

    Raises:
        DataError: no frames, different sizes, or more than 20 proposals.
    """
    from scipy.optimize import linear_sum_assignment

    frames = _frame_count(truth, prediction)
    if not frames:
        raise DataError("unsupervised J and F need at least one frame")
    objects = _objects(truth[0])
    highest = max(int(prediction[f].max(initial=0)) for f in range(frames))
    if highest > MAX_PROPOSALS:
        raise DataError(f"object {highest} is predicted; unsupervised results may have {MAX_PROPOSALS} proposals")
    proposals = max(objects, highest)
    region = np.zeros((proposals, objects, frames))
    contour = np.zeros((proposals, objects, frames))
    for f in range(frames):
        labels, void, predicted = _frame(truth, prediction, f)
        true_masks = [(labels == k) & ~void for k in range(1, objects + 1)]
        masks = [(predicted == m) & ~void for m in range(1, proposals + 1)]
        true_contours = [_Contour.of(mask) for mask in true_masks]
        contours = [_Contour.of(mask) for mask in masks]
        for m in range(proposals):
            for k in range(objects):
                region[m, k, f] = region_similarity(true_masks[k], masks[m])
                contour[m, k, f] = _contour_score(true_contours[k], contours[m])
    scores = (region.mean(axis=2) + contour.mean(axis=2)) / 2
    matched, of_object = linear_sum_assignment(scores, maximize=True)
    return DavisScores(region[matched, of_object], contour[matched, of_object])


def region_similarity(truth: np.ndarray, prediction: np.ndarray) -> float:
    """J: intersection over union of two (H, W) masks; 1 if both are empty."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def contour_accuracy(truth: np.ndarray, prediction: np.ndarray) -> float:
    """F: harmonic mean of contour precision and recall of two (H, W) masks.

    Contour pixels match within ceil(0.008 * diagonal) pixels. An empty contour against a non-empty one scores
    0, two empty ones 1.
    """
    return _contour_score(_Contour.of(truth), _Contour.of(prediction))


def contour_pixels(mask: np.ndarray) -> np.ndarray:
    """One-sided contour of a bool mask (H, W): pixels unlike their right, lower or diagonal neighbour."""
    contour = np.zeros(mask.shape, bool)
    contour[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    contour[:-1] |= mask[:-1] != mask[1:]
    contour[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return contour


def statistics(series: np.ndarray) -> Statistics:
    """Mean, recall and decay of each row of (results, frames)."""
    frames = series.shape[1] if len(series) else 0
    bounds = [round(1 + (frames - 1) * quarter / 4 + 1e-10) - 1 for quarter in (0, 1, 3, 4)]
    first, last = slice(bounds[0], bounds[1] + 1), slice(bounds[2], bounds[3] + 1)
    return Statistics(
        mean=tuple(float(row.mean()) for row in series),
        recall=tuple(float((row > 0.5).mean()) for row in series),
        decay=tuple(float(row[first].mean() - row[last].mean()) for row in series),
    )


@dataclass(frozen=True, eq=False)
class _Contour:
    """A mask's contour pixels, and all pixels near enough to one of them to match it."""

    pixels: np.ndarray
    reach: np.ndarray
    count: int

    @classmethod
    def of(cls, mask: np.ndarray) -> _Contour:
        pixels = contour_pixels(mask)
        count = int(np.count_nonzero(pixels))
        radius = math.ceil(0.008 * math.hypot(*mask.shape))
        reach = cv2.dilate(pixels.view(np.uint8), _disk(radius)).view(bool) if count else pixels
        return cls(pixels, reach, count)


@lru_cache
def _disk(radius: int) -> np.ndarray:
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)


def _contour_score(truth: _Contour, prediction: _Contour) -> float:
    if not (truth.count and prediction.count):
        return float(truth.count == prediction.count)  # precision or recall is 0, unless both are empty
    precision = np.count_nonzero(prediction.pixels & truth.reach) / prediction.count
    recall = np.count_nonzero(truth.pixels & prediction.reach) / truth.count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _frame_count(truth: Frames, prediction: Frames) -> int:
    if len(truth) != len(prediction):
        raise DataError(f"prediction of {len(prediction)} frames against ground truth of {len(truth)}")
    return len(truth)


def _objects(first: np.ndarray) -> int:
    return int(np.where(first == VOID, 0, first).max(initial=0))


def _frame(truth: Frames, prediction: Frames, f: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, predicted = truth[f], prediction[f]
    if labels.shape != predicted.shape:
        raise DataError(f"frame {f}: prediction of {predicted.shape} against ground truth of {labels.shape}")
    void = labels == VOID
    return np.where(void, 0, labels), void, predicted
