"""The ground truth as a coarse map."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.scoring.coarse_truth import coarse_truth


@pytest.mark.parametrize(
    ("ignore", "expected"),
    [
        ((), [[3, 255, 255, 7]]),
        ((255,), [[3, 3, 7, 7]]),
        ((255, 7), [[3, 3, 3, 3]]),
        ((255, 3, 7), [[3, 255, 255, 7]]),  # nothing else is left
    ],
)
def test_ignored_tokens_take_the_nearest_class(ignore: tuple[int, ...], expected: list[list[int]]) -> None:
    truth = np.repeat(np.array([[3, 3, 255, 255, 255, 255, 7, 7]], np.uint8), 2, axis=0)
    made = coarse_truth(truth, (1, 4), ignore)
    np.testing.assert_array_equal(made, expected)
    assert made.dtype == truth.dtype


def test_void_is_filled_on_the_grid_and_not_before() -> None:
    """A token takes what lies at its centre, so a thin line of void is not seen at all."""
    truth = np.full((6, 6), 2, np.uint8)
    truth[:, 0] = 255
    np.testing.assert_array_equal(coarse_truth(truth, (2, 2), [255]), np.full((2, 2), 2))
