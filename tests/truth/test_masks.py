"""Labels of a mask that are too small for the tokens, and the size that keeps them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.media.pictures import read_label_png
from pipeline.truth.masks import lost_labels, size_that_keeps
from tests.support.places import DATA


def mask_with(*boxes: tuple[int, int, int], value: int = 7) -> np.ndarray:
    """A mask 256x512 of label 1 with squares (row, column, side)."""
    mask = np.ones((256, 512), np.uint8)
    for row, column, side in boxes:
        mask[row : row + side, column : column + side] = value
    return mask


@pytest.mark.parametrize(
    ("mask", "lost", "keeps"),
    [
        (mask_with((16, 16, 32)), [], None),
        (mask_with((16, 16, 16)), [7], 320),
        (mask_with((0, 0, 6)), [7], 1024),  # centres lie at 8, 24, ...
        (mask_with((0, 0, 6), (100, 100, 40)), [], None),
        (mask_with((0, 0, 1)), [7], None),
        (mask_with((0, 0, 6), value=255), [255], 1024),  # the object of a binary mask
        (np.where(mask_with((0, 0, 6), value=255) == 255, 255, mask_with((90, 90, 60))), [], None),  # void
    ],
)
def test_which_labels_no_token_takes(mask: np.ndarray, lost: list[int], keeps: int | None) -> None:
    assert lost_labels(mask, (256, 512)) == lost
    if lost:
        found = size_that_keeps(mask, (256, 512))
        assert found is None if keeps is None else found is not None and found >= keeps
        if found:
            assert lost_labels(mask, (found, 2 * found)) == []


def test_the_small_object_of_a_report() -> None:
    mask = read_label_png(DATA / "cases" / "mask_small_object.png")
    assert lost_labels(mask, (256, 448)) == [7]
    found = size_that_keeps(mask, (256, 448))
    assert found is not None and 512 < found <= 1280
