"""What confidence is worth."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.scoring.assignment import IDENTITY, Assignment
from pipeline.scoring.protocol import Strict
from pipeline.scoring.reliability import Reliability, SureFrames, reliability


def counted(levels: np.ndarray, wrong: np.ndarray) -> Reliability:
    return Reliability(np.bincount(levels, minlength=256), np.bincount(levels[wrong], minlength=256))


def literal_aurc(levels: np.ndarray, wrong: np.ndarray, rng: np.random.Generator) -> float:
    """The mean error of the surest 1, 2, ... pixels, with those of one level in random order, many times."""
    areas = []
    for _ in range(200):
        order = np.lexsort((rng.random(len(levels)), -levels))
        areas.append((np.cumsum(wrong[order]) / np.arange(1, len(levels) + 1)).mean())
    return float(np.mean(areas))


def test_aurc_against_the_literal_version(rng: np.random.Generator) -> None:
    levels = rng.choice([0, 8, 16, 64, 128, 200, 255], 3000)
    wrong = rng.random(3000) > levels / 300
    assert counted(levels, wrong).aurc == pytest.approx(literal_aurc(levels, wrong, rng), abs=2e-3)


@pytest.mark.parametrize(
    ("levels", "wrong", "aurc"),
    [
        ([9] * 10, [1, 0, 0, 0, 0, 0, 0, 0, 1, 0], 0.2),
        ([200, 100], [0, 0], 0),
        ([200, 100], [1, 1], 1),
        ([200, 100], [0, 1], (1 - np.log(2)) / 2),
        ([200, 100], [1, 0], (1 + np.log(2)) / 2),
    ],
    ids=["a constant is worth the error rate", "all right", "all wrong", "the wrong one is unsure", "it is sure"],
)
def test_aurc_by_hand(levels: list[int], wrong: list[int], aurc: float) -> None:
    """A level's pixels are an area: a wrong one after a right one adds the integral of (x - 1) / x from 1 to 2."""
    found = counted(np.array(levels), np.array(wrong, bool))
    assert found.aurc == pytest.approx(aurc)
    assert found.error == np.mean(wrong)


def test_calibration_by_bins_and_the_curve_of_risk() -> None:
    levels = np.repeat([0, 51, 255], [4, 4, 2])
    wrong = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], bool)
    found = counted(levels, wrong)
    assert [(b.confidence, b.accuracy, b.pixels) for b in found.bins] == [(0, 0.25, 4), (0.2, 0.75, 4), (1, 1, 2)]
    assert found.calibration_error == pytest.approx((4 * 0.25 + 4 * 0.55) / 10)
    assert dict(found.curve)[0.2] == 0
    assert dict(found.curve)[0.6] == pytest.approx(1 / 6)
    assert dict(found.curve)[1.0] == pytest.approx(0.4)
    assert found.share_from(0) == 1
    assert found.share_from(0.2) == pytest.approx(0.6)
    assert found.share_from(0.21) == pytest.approx(0.2)


def test_records_add_up_and_hold_numbers_of_json() -> None:
    first, second = counted(np.array([3, 3]), np.array([True, False])), counted(np.array([9]), np.array([True]))
    records = json.loads(json.dumps([first.record(), second.record()], allow_nan=False))
    both = Reliability.of_records(records)
    assert both is not None
    assert both.error == pytest.approx(2 / 3)
    assert both.pixels[[3, 9]].tolist() == [2, 1]
    assert Reliability.of_records([]) is None


def test_pixels_count_where_the_truth_does() -> None:
    truth, labels = np.array([[[1, 1, 2, 255]]], np.uint8), np.array([[[7, 8, 8, 8]]])
    confidence = np.array([[[10, 20, 30, 40]]], np.uint8)
    protocol, assignment = Strict((1, 2), (255,)), Assignment("majority", {7: 1, 8: 2})
    found = reliability(truth, labels, confidence, [0], protocol, assignment)
    assert found is not None
    assert np.flatnonzero(found.pixels).tolist() == [10, 20, 30]
    assert np.flatnonzero(found.wrong).tolist() == [20]
    void = np.full((1, 1, 4), 255, np.uint8)
    assert reliability(void, labels, confidence, [0], protocol, IDENTITY) is None


@pytest.mark.parametrize(("void", "dtype"), [(255, np.uint8), (65535, np.uint16)])
def test_unsure_pixels_are_void(void: int, dtype: type) -> None:
    truth, confidence = np.array([[[1, 2, 3]]], np.uint8), np.array([[[127, 128, 0]]], np.uint8)
    frames = SureFrames(truth, confidence, 0.5, void)
    assert len(frames) == 1
    assert frames[0].tolist() == [[void, 2, void]]
    assert frames[0].dtype == dtype
