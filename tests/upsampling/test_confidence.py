"""How sure pixels are."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.upsampling.confidence import STEP, pixel_confidence
from pipeline.upsampling.interpolation import METHODS

COARSE = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [7, 7, 4, 4]])


def test_the_geometric_mean_of_three_shares_in_few_levels() -> None:
    margin = np.array([[1.0, 0.5, 0.0]], np.float32)
    tokens = np.array([[255, 255, 255]], np.uint8)
    sure = pixel_confidence(margin, tokens)
    assert sure.dtype == np.uint8
    assert sure.tolist() == pixel_confidence(margin, None).tolist()
    assert (sure / 255).tolist()[0] == pytest.approx([1, 0.5 ** (1 / 3), 0], abs=STEP / 2 / 255)
    assert (pixel_confidence(margin, tokens // 8) / 255)[0, 0] == pytest.approx(0.5, abs=STEP / 255)


def test_tokens_are_enlarged_bilinearly() -> None:
    sure = pixel_confidence(np.ones((1, 8), np.float32), np.array([[0, 255]], np.uint8))
    assert sure[0].tolist() == sorted(sure[0].tolist())
    assert len(set(sure[0].tolist())) > 3


@pytest.mark.parametrize("method", METHODS)
def test_pixels_are_unsure_at_borders(method: str) -> None:
    guide = np.full((30, 40, 3), 90, np.uint8)
    margin = METHODS[method](COARSE, guide).margin
    assert margin.shape == (30, 40)
    assert margin.min() >= 0
    assert margin.max() <= 1
    if method == "nearest":  # nothing competes
        assert (margin == 1).all()
    else:
        assert margin[0:10, 18:22].mean() < 0.5 * margin[0:10, [0, 1, -2, -1]].mean()
    assert (METHODS[method](np.full((3, 4), 4), guide).margin == 1).all()
