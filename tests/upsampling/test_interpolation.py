from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.parameters import UpsampleParams
from pipeline.upsampling.interpolation import METHODS, interpolated

COARSE = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [7, 7, 4, 4]])


@pytest.mark.parametrize("method", METHODS)
def test_interpolation_keeps_labels_and_cell_centres(method: str) -> None:
    guide = np.repeat(np.repeat(COARSE.astype(np.uint8)[..., None] * 30, 10, 0), 10, 1).repeat(3, 2)
    labels = METHODS[method](COARSE, guide)
    assert labels.shape == (30, 40)
    assert set(np.unique(labels)) == {0, 4, 7}
    np.testing.assert_array_equal(labels[5::10, 5::10], COARSE)


def test_joint_bilateral_follows_the_images_edge() -> None:
    """The cell border lies at column 20, the image's edge at 23."""
    coarse = np.array([[1, 1, 2, 2]] * 3)
    guide = np.zeros((30, 40, 3), np.uint8)
    guide[:, 23:] = 200
    labels = METHODS["joint_bilateral"](coarse, guide)
    borders = [int(np.argmax(row == 2)) for row in labels]
    assert set(borders) == {23}
    assert {int(np.argmax(row == 2)) for row in METHODS["nearest"](coarse, guide)} == {20}


def test_bilinear_ties_go_to_the_lowest_label() -> None:
    labels = METHODS["bilinear"](np.array([[3, 1]]), np.zeros((1, 3, 3), np.uint8))
    assert labels.tolist() == [[3, 1, 1]]


def test_a_median_of_the_guide_hides_grain_from_the_joint_bilateral_filter() -> None:
    coarse, guide = np.array([[0, 1]]), np.zeros((40, 80, 3), np.uint8)
    guide[:, 40:] = 200
    guide[20, 10] = 200  # one pixel that looks like the other segment
    plain, smoothed = (
        interpolated(coarse, guide, UpsampleParams(method="joint_bilateral", guide_median=median)) for median in (1, 5)
    )
    assert (plain[20, 10], smoothed[20, 10]) == (1, 0)
    assert {tuple(labels[0, [38, 41]]) for labels in (plain, smoothed)} == {(0, 1)}


def test_an_even_median_is_refused() -> None:
    with pytest.raises(UsageError, match="upsample.guide_median must be odd, not 4"):
        interpolated(np.zeros((1, 1), int), np.zeros((2, 2, 3), np.uint8), UpsampleParams(guide_median=4))
