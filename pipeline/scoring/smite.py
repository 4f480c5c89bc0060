"""Part scores of SMITE (Alimohammadi et al. 2025): mean IoU over named parts, and J and F over labels.

Void is not left out anywhere; `mean_iou` is in per cent and counts unused parts as 0, as published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError
from pipeline.scoring.davis import Frames, contour_accuracy, region_similarity


@dataclass(frozen=True, eq=False)
class SmiteScores:
    """Scores of one video.

    Attributes:
        objects: labels l with 0 < l < 255 that the truth holds anywhere, ascending.
        region, contour: J and F, (frames, objects).
        iou_per_part: part name -> mean IoU in per cent over the frames that hold the part; 0 if none does.
        mean_absolute_error: mean difference of the label *numbers* over all pixels.
    """

    objects: tuple[int, ...]
    region: np.ndarray
    contour: np.ndarray
    iou_per_part: Mapping[str, float]
    mean_absolute_error: float

    @property
    def jaccard(self) -> float:
        return float(self.region.mean(axis=1).mean())

    @property
    def f_measure(self) -> float:
        return float(self.contour.mean(axis=1).mean())

    @property
    def mean_iou(self) -> float:
        """Mean over all parts, background and unused ones included, in per cent."""
        return math.fsum(self.iou_per_part.values()) / len(self.iou_per_part)


def score_parts(truth: Frames, prediction: Frames, part_names: Sequence[str]) -> SmiteScores:
    """Score part labels.

    Args:
        truth, prediction: (F, H, W) part numbers; part number = position in `part_names`, 0 is background.
        part_names: at least one, all different.

    Raises:
        DataError: the frames do not fit each other, or the truth holds nothing but background and void.
    """
    if not part_names or len(set(part_names)) != len(part_names):
        raise DataError("part names must be given and differ from each other")
    if len(truth) != len(prediction):
        raise DataError(f"prediction of {len(prediction)} frames against ground truth of {len(truth)}")
    found = set().union(*(np.unique(truth[f]).tolist() for f in range(len(truth))))
    objects = sorted(label for label in found if 0 < label < 255)
    if not objects:
        raise DataError("the ground truth holds no part: nothing but background and void in all frames")
    region = np.zeros((len(truth), len(objects)))
    contour = np.zeros((len(truth), len(objects)))
    ious: list[list[float]] = [[] for _ in part_names]
    error, pixels = 0, 0
    for f in range(len(truth)):
        labels, predicted = truth[f], prediction[f]
        if labels.shape != predicted.shape:
            raise DataError(f"frame {f}: prediction of {predicted.shape} against ground truth of {labels.shape}")
        for column, label in enumerate(objects):
            true_mask, mask = labels == label, predicted == label
            region[f, column] = region_similarity(true_mask, mask)
            contour[f, column] = contour_accuracy(true_mask, mask)
        for part, values in enumerate(ious):
            true_mask, mask = labels == part, predicted == part
            if true_mask.any():
                union = np.count_nonzero(true_mask | mask)
                values.append(100 * np.count_nonzero(true_mask & mask) / (union + 1e-7))
        error += int(np.abs(labels.astype(np.int64) - predicted).sum())
        pixels += labels.size
    per_part = (math.fsum(values) / len(values) if values else 0.0 for values in ious)
    return SmiteScores(tuple(objects), region, contour, dict(zip(part_names, per_part, strict=True)), error / pixels)


def shared_frames(annotated: Sequence[int], predicted: Sequence[int]) -> list[int]:
    """The frames that are both annotated and predicted, ascending."""
    return sorted(set(annotated) & set(predicted))
