"""What the confidence of labels is worth: how often they are right where it is high, and where it is low.

Counts of right and wrong pixels per level of confidence say all of it, and those of several videos add up.

Risk and coverage: El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010; the area
under that curve (AURC): Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural
Classifiers", ICLR 2019. Calibration error over bins: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.scoring.assignment import Assignment
from pipeline.scoring.davis import Frames
from pipeline.scoring.protocol import Protocol
from pipeline.stores.confidence import MOST

#: Bins of equal width for calibration, and points of the curve of risk and coverage.
BINS, POINTS = 10, 20


@dataclass(frozen=True)
class Bin:
    """Pixels of similar confidence: its mean, the share of labels that are right (both 0..1), how many there are."""

    confidence: float
    accuracy: float
    pixels: int


@dataclass(frozen=True, eq=False)
class Reliability:
    """Scored pixels by level of confidence; at least one.

    Attributes:
        pixels: (256,) int64, how many have each level, 0 to 255.
        wrong: (256,) int64, how many of them have a wrong label.
    """

    pixels: np.ndarray
    wrong: np.ndarray

    @property
    def error(self) -> float:
        """Share of pixels with a wrong label: the area under the curve that a constant confidence has."""
        return float(self.wrong.sum() / self.pixels.sum())

    @property
    def aurc(self) -> float:
        """Area under the curve of risk over coverage, 0..1; the smaller, the better confidence tells wrong from right.

        Pixels of one level come in any order: among them errors are spread evenly.
        """
        area = 0.0
        surer = errors = 0
        for count, wrong in zip(self.pixels[::-1].tolist(), self.wrong[::-1].tolist(), strict=True):
            if not count:
                continue
            # The integral of (errors + wrong * x / count) / (surer + x) for x from 0 to count.
            area += wrong
            if surer:
                area += (errors - surer * wrong / count) * np.log1p(count / surer)
            surer, errors = surer + count, errors + wrong
        return float(area / surer)

    @property
    def calibration_error(self) -> float:
        """Mean difference between confidence and the share that is right, over bins, weighted by pixels (ECE)."""
        return sum(one.pixels * abs(one.confidence - one.accuracy) for one in self.bins) / int(self.pixels.sum())

    @property
    def bins(self) -> list[Bin]:
        """Calibration: the bins that hold pixels, from the least sure on."""
        levels = np.arange(MOST + 1)
        places = levels * BINS // (MOST + 1)
        pixels, wrong, summed = (
            np.bincount(places, weights, BINS) for weights in (self.pixels, self.wrong, self.pixels * levels / MOST)
        )
        return [
            Bin(float(total / count), float(1 - errors / count), int(count))
            for count, errors, total in zip(pixels, wrong, summed, strict=True)
            if count
        ]

    @property
    def curve(self) -> list[tuple[float, float]]:
        """(coverage, risk): the share of wrong labels among the surest 5, 10, .. 100 % of the pixels, both 0..1."""
        surer = np.concatenate([[0], np.cumsum(self.pixels[::-1])])
        errors = np.concatenate([[0], np.cumsum(self.wrong[::-1])])
        shares = np.arange(1, POINTS + 1) / POINTS
        at = shares * surer[-1]
        return list(zip(shares.tolist(), (np.interp(at, surer, errors) / at).tolist(), strict=True))

    def share_from(self, confidence: float) -> float:
        """Share of the pixels whose confidence is at least this (0..1)."""
        return float(self.pixels[np.arange(MOST + 1) >= confidence * MOST].sum() / self.pixels.sum())

    def record(self) -> dict[str, Any]:
        """What scores.json keeps; `of_records` reads the counts."""
        return {
            "error": self.error,
            "aurc": self.aurc,
            "calibration_error": self.calibration_error,
            "risk_coverage": [{"coverage": coverage, "risk": risk} for coverage, risk in self.curve],
            "bins": [{"confidence": b.confidence, "accuracy": b.accuracy, "pixels": b.pixels} for b in self.bins],
            "pixels": self.pixels.tolist(),
            "wrong": self.wrong.tolist(),
        }

    @classmethod
    def of_records(cls, records: Iterable[Mapping[str, Any]]) -> Reliability | None:
        """That of all pixels of several records; None where there are none."""
        counts = [np.array([record["pixels"], record["wrong"]], np.int64) for record in records]
        total = sum(counts, np.zeros((2, MOST + 1), np.int64))
        return cls(total[0], total[1]) if total[0].any() else None


def reliability(
    truth: Frames,
    labels: Frames,
    confidence: Frames,
    positions: Sequence[int],
    protocol: Protocol,
    assignment: Assignment,
) -> Reliability | None:
    """Count right and wrong pixels of the annotated frames by their confidence; None where no pixel is scored.

    Args:
        truth, labels, positions, protocol, assignment: as `score_video` takes them.
        confidence: of the labels, (H, W) uint8 each.
    """
    counts, count = np.zeros((2, MOST + 1), np.int64), len(protocol.class_values)
    for index in range(len(positions)):
        frame = protocol.decode(truth[index], assignment.apply(labels[index]))
        scored = frame.truth < count
        levels, wrong = confidence[index][scored], (frame.truth != frame.prediction)[scored]
        counts += [np.bincount(levels, minlength=MOST + 1), np.bincount(levels[wrong], minlength=MOST + 1)]
    return Reliability(counts[0], counts[1]) if counts[0].any() else None


class SureFrames:
    """Ground truth that is void wherever labels are less sure than a threshold.

    Args:
        truth, confidence: as `reliability` takes them.
        below: the threshold, 0..1.
        void: stored value of the pixels that are left out.
    """

    def __init__(self, truth: Frames, confidence: Frames, below: float, void: int) -> None:
        self._truth, self._confidence, self._below, self._void = truth, confidence, below, void

    def __len__(self) -> int:
        return len(self._truth)

    def __getitem__(self, frame: int, /) -> np.ndarray:
        unsure = self._confidence[frame] < self._below * MOST
        return np.where(unsure, np.min_scalar_type(self._void).type(self._void), self._truth[frame])


def confidence_record(
    truth: Frames,
    labels: Frames,
    confidence: Frames | None,
    positions: Sequence[int],
    protocol: Protocol,
    assignment: Assignment,
    ignore_below: float,
) -> dict[str, Any]:
    """The entry `confidence` of a video's record, and `ignored_share` where unsure pixels were left out.

    Args:
        confidence: None = the labels have none, and the record has no such entry.
        ignore_below: the threshold below which pixels were left out, 0..1; the others: as `reliability` takes them.
    """
    if confidence is None:
        return {}
    found = reliability(truth, labels, confidence, positions, protocol, assignment)
    ignored = {"ignored_share": None if found is None else 1 - found.share_from(ignore_below)} if ignore_below else {}
    return {"confidence": None if found is None else found.record(), **ignored}
