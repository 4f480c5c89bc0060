"""SMITE scores (the reference numbers are in test_metrics_reference)."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.scoring.smite import score_parts, shared_frames

TRUTH = np.array([[[0, 0, 1, 1]], [[0, 0, 0, 0]]], np.uint8)
PREDICTION = np.array([[[0, 1, 1, 1]], [[0, 0, 0, 1]]], np.uint8)


def test_parts_by_hand() -> None:
    scores = score_parts(TRUTH, PREDICTION, ["background", "wheel", "unused"])
    assert scores.objects == (1,)
    # A part predicted where the truth lacks it costs nothing here, but is 0 in the region scores.
    assert scores.iou_per_part == pytest.approx({"background": (50 + 75) / 2, "wheel": 200 / 3, "unused": 0}, rel=1e-6)
    assert scores.mean_iou == pytest.approx((62.5 + 200 / 3) / 3, rel=1e-6)
    assert scores.region.tolist() == [[2 / 3], [0.0]]
    assert scores.mean_absolute_error == 2 / 8


def test_shared_frames() -> None:
    assert shared_frames([20, 0, 5], [0, 1, 20]) == [0, 20]


@pytest.mark.parametrize(
    ("truth", "prediction", "names", "message"),
    [
        (TRUTH * 0, PREDICTION, ["background"], "holds no part"),
        (TRUTH, PREDICTION[:1], ["background"], "prediction of 1 frames against ground truth of 2"),
        (TRUTH, PREDICTION[:, :, :2], ["background"], "frame 0: prediction of"),
        (TRUTH, PREDICTION, ["wheel", "wheel"], "differ from each other"),
    ],
)
def test_bad_input(truth: np.ndarray, prediction: np.ndarray, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_parts(truth, prediction, names)
