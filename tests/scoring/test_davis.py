"""DAVIS J and F against slow literal versions (the reference numbers are in test_metrics_reference)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.scoring.davis import (
    VOID,
    contour_accuracy,
    contour_pixels,
    region_similarity,
    semi_supervised,
    statistics,
    unsupervised,
)


def masks(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(shape) < rng.random(), rng.random(shape) < rng.random()


def literal_contour(mask: np.ndarray) -> np.ndarray:
    """Section 7 of the reference, pixel by pixel."""
    height, width = mask.shape
    contour = np.zeros(mask.shape, bool)
    for y, x in np.ndindex(mask.shape):
        neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
        contour[y, x] = any(mask[y, x] != mask[b, a] for b, a in neighbours if b < height and a < width)
    return contour


def literal_contour_accuracy(truth: np.ndarray, prediction: np.ndarray) -> float:
    g, p = (np.argwhere(literal_contour(mask)) for mask in (truth, prediction))
    if not (len(g) and len(p)):
        return 1.0 if len(g) == len(p) else 0.0
    radius = math.ceil(0.008 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    near = ((g[:, None] - p[None]) ** 2).sum(axis=2) <= radius**2
    recall, precision = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


SHAPES = st.sampled_from([(1, 1), (1, 7), (6, 1), (9, 11), (140, 90)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), SHAPES)
def test_contour_and_region_are_the_literal_definitions(seed: int, shape: tuple[int, int]) -> None:
    truth, prediction = masks(seed, shape)
    if shape[0] > 100:  # blobs, for a radius of two pixels and contours that do not fill the picture
        truth = np.kron(truth[:14, :9], np.ones((10, 10), bool))
        prediction = np.roll(truth, seed % 7, axis=1)
    np.testing.assert_array_equal(contour_pixels(truth), literal_contour(truth))
    assert contour_accuracy(truth, prediction) == pytest.approx(literal_contour_accuracy(truth, prediction))
    union = (truth | prediction).sum()
    assert region_similarity(truth, prediction) == ((truth & prediction).sum() / union if union else 1.0)


def test_the_matching_of_proposals_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (4, 8, 9)).astype(np.uint8)
    truth[0, 0, :3] = 3, VOID, VOID
    prediction = np.where(rng.random(truth.shape) < 0.5, (truth * 3) % 5, rng.integers(0, 6, truth.shape)).astype(
        np.uint8
    )
    scores = unsupervised(truth, prediction)
    best = -1.0
    for chosen in itertools.permutations(range(1, 6), 3):
        total = 0.0
        for k, m in enumerate(chosen, start=1):
            for labels, predicted in zip(truth, prediction, strict=True):
                void = labels == VOID
                g, p = (labels == k) & ~void, (predicted == m) & ~void
                total += region_similarity(g, p) + contour_accuracy(g, p)
        best = max(best, total)
    assert scores.region.sum() + scores.contour.sum() == pytest.approx(best)


@pytest.mark.parametrize(
    ("series", "mean", "recall", "decay"),
    [
        ([1.0], 1.0, 1.0, 0.0),
        ([0.5, 0.5], 0.5, 0.0, 0.0),  # 0.5 itself is no success
        ([1.0, 0.75, 0.5, 0.25, 0.0], 0.5, 0.4, 0.75),  # quarters overlap in no frame: 0..1 and 3..4
    ],
)
def test_statistics(series: list[float], mean: float, recall: float, decay: float) -> None:
    result = statistics(np.array([series]))
    assert (result.mean[0], result.recall[0], result.decay[0]) == pytest.approx((mean, recall, decay))


def test_no_object_has_no_result() -> None:
    empty = np.zeros((4, 3, 3), np.uint8)
    scores = unsupervised(empty, empty + np.uint8(2))
    assert scores.j.mean == () and math.isnan(scores.jf_mean)


ONE = np.ones((4, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("score", "truth", "prediction", "message"),
    [
        (semi_supervised, ONE[:2], ONE[:2], "need three frames .* not 2"),
        (semi_supervised, ONE, ONE * 2, "frame 1: object 2 is predicted, but the first frame has 1"),
        (semi_supervised, ONE, ONE[:3], "prediction of 3 frames against ground truth of 4"),
        (
            semi_supervised,
            ONE,
            ONE[:, :2],
            r"frame 1: prediction of \(2, 3\) against ground truth of \(3, 3\)",
        ),
        (unsupervised, ONE, ONE * 21, "object 21 is predicted; .* 20 proposals"),
        (unsupervised, ONE[:0], ONE[:0], "at least one frame"),
    ],
)
def test_bad_input(score: object, truth: np.ndarray, prediction: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(truth, prediction)  # type: ignore[operator]
