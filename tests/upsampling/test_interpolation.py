from __future__ import annotations

import numpy as np
import pytest

from pipeline.upsampling.interpolation import METHODS

COARSE = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [7, 7, 4, 4]])


@pytest.mark.parametrize("method", METHODS)
def test_interpolation_keeps_labels_and_cell_centres(method: str) -> None:
    guide = np.repeat(np.repeat(COARSE.astype(np.uint8)[..., None] * 30, 10, 0), 10, 1).repeat(3, 2)
    labels = METHODS[method](COARSE, guide).labels
    assert labels.shape == (30, 40)
    assert set(np.unique(labels)) == {0, 4, 7}
    np.testing.assert_array_equal(labels[5::10, 5::10], COARSE)


@pytest.mark.parametrize("method", ["joint_bilateral", "guided"])
def test_the_images_edge_is_followed(method: str) -> None:
    """The cell border lies at column 20, the image's edge at 23."""
    coarse = np.array([[1, 1, 2, 2]] * 3)
    guide = np.zeros((30, 40, 3), np.uint8)
    guide[:, 23:] = 200
    labels = METHODS[method](coarse, guide).labels
    borders = [int(np.argmax(row == 2)) for row in labels]
    assert set(borders) == {23}
    assert {int(np.argmax(row == 2)) for row in METHODS["nearest"](coarse, guide).labels} == {20}


def test_bilinear_ties_go_to_the_lowest_label() -> None:
    labels = METHODS["bilinear"](np.array([[3, 1]]), np.zeros((1, 3, 3), np.uint8)).labels
    assert labels.tolist() == [[3, 1, 1]]
