"""How sure is the difference between two methods: a paired bootstrap over clips.

Clips are drawn with replacement, the same ones for both methods, and pooled again from their counts: mIoU is not the
mean of the clips' mIoU, so the clips' scores would not do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.scoring.scores import NONE, ratio_parts

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95

#: A record of a video in scores.json and the names of its classes by stored value.
NamedRecord = tuple[Mapping[str, Any], Mapping[int, str]]


@dataclass(frozen=True, eq=False)
class ClipCounts:
    """What pooling needs of V clips, over the C classes of all of them.

    Attributes:
        right, truth, predicted: (V, C) int64 pixels per class: rightly labelled, in the ground truth, predicted.
        sums, numbers: score -> (V,) what each clip adds to a score that is a sum divided by a number, as VC_n is one.
    """

    right: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    sums: Mapping[str, np.ndarray]
    numbers: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, clips: Sequence[NamedRecord], windows: Sequence[int], more: Sequence[str] = ()) -> ClipCounts:
        """Counts of scored videos, as `scores.score_video` records them.

        Args:
            windows: n of VC_n.
            more: further scores of `scores.ratio_parts`.
        """
        place = {key: index for index, key in enumerate(sorted({key for _, names in clips for key in names.items()}))}
        right, truth, predicted = np.zeros((3, len(clips), len(place)), np.int64)
        for clip, (record, names) in enumerate(clips):
            for value, row in record["confusion"].items():
                here = place[int(value), names[int(value)]]
                for prediction, pixels in row.items():
                    truth[clip, here] += pixels
                    if prediction != NONE:
                        predicted[clip, place[int(prediction), names[int(prediction)]]] += pixels
                right[clip, here] += row.get(value, 0)
        parts = [ratio_parts(record, windows) for record, _ in clips]
        scores = (*(f"vc{n}" for n in windows), *more)
        sums, numbers = ({score: np.array([part[score][i] for part in parts]) for score in scores} for i in (0, 1))
        return cls(right, truth, predicted, sums, numbers)

    def __len__(self) -> int:
        return len(self.truth)

    def pooled(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of R weightings of the clips.

        Args:
            weights: (R, V) how often each clip counts.

        Returns:
            `miou`, `vc<n>` and the further scores, (R,) each, as `scores.pool` defines them; NaN where undefined.
        """
        right, truth, predicted = (
            weights @ counts.astype(np.float64) for counts in (self.right, self.truth, self.predicted)
        )
        present = truth > 0
        iou = np.divide(right, truth + predicted - right, out=np.zeros_like(right), where=present)
        return {
            "miou": _ratio(iou.sum(axis=1), present.sum(axis=1)),
            **{name: _ratio(weights @ self.sums[name], weights @ self.numbers[name]) for name in self.sums},
        }


@dataclass(frozen=True)
class Difference:
    """One score of a method minus that of another.

    Attributes:
        value: the difference over all clips, as they are; None where a score is undefined.
        interval: its bootstrap interval (low, high); None with fewer than two clips, which say nothing about others.
    """

    value: float | None
    interval: tuple[float, float] | None

    @property
    def unclear(self) -> bool:
        """Whether the interval reaches zero: other clips could turn the sign."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]


def differences(
    base: ClipCounts, other: ClipCounts, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """Scores of `other` minus those of `base`, with 95 % percentile intervals; the clips are the same, in order.

    Raises:
        DataError: the numbers of clips differ.
    """
    if len(base) != len(other):
        raise DataError(f"cannot compare {len(base)} clips with {len(other)}: a paired bootstrap needs the same clips")
    clips = len(base)
    whole = np.ones((1, clips))
    values = {name: float(found[0] - base.pooled(whole)[name][0]) for name, found in other.pooled(whole).items()}
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(values)
    if clips > 1:
        drawn = np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=resamples)
        first, second = base.pooled(drawn), other.pooled(drawn)
        intervals = {name: _interval(second[name] - first[name]) for name in values}
    return {name: Difference(None if np.isnan(value) else value, intervals[name]) for name, value in values.items()}


def _interval(samples: np.ndarray) -> tuple[float, float] | None:
    # Windows of n frames may be missing from every clip of a draw: that draw says nothing about VC_n.
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)
