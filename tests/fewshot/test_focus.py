"""Boxes around what a first look finds: where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.fewshot.focus import boxes_around, smoothed

SIZE = (64, 128)
WHOLE = [0, 64, 0, 128]
NOTHING = [0, 0, 0, 0]


def test_a_box_holds_the_last_row_and_column() -> None:
    numbers = torch.full((3, *SIZE), 2, dtype=torch.uint8)
    numbers[0, 10, 20] = 0
    numbers[1, 5:8, 9] = numbers[1, 6, 100:104] = 1
    boxes = boxes_around(numbers, background=2)
    assert boxes.dtype == np.int32 and boxes.tolist() == [[10, 11, 20, 21], [5, 8, 9, 104], NOTHING]


@pytest.mark.parametrize(
    ("boxes", "margin", "window", "expected"),
    [
        ([[10, 20, 30, 80]], 0.0, 15, [[10, 20, 30, 80]]),
        ([[10, 20, 30, 80]], 0.04, 15, [[9, 21, 28, 82]]),  # 0.4 and 2 pixels, outwards
        ([[1, 64, 2, 128]], 0.5, 15, [WHOLE]),  # the border
        ([NOTHING], 0.5, 15, [WHOLE]),
        ([[10, 20, 0, 9], [40, 60, 0, 9], [12, 22, 0, 9]], 0.0, 3, [[10, 20, 0, 9], [12, 22, 0, 9], [12, 22, 0, 9]]),
        ([[10, 20, 0, 9], NOTHING, [13, 23, 0, 9]], 0.0, 3, [[10, 20, 0, 9], WHOLE, [13, 23, 0, 9]]),
        # Of two that are left, what lies between, outwards.
        ([[10, 20, 0, 9], [13, 23, 0, 9], NOTHING], 0.0, 3, [[10, 20, 0, 9], [11, 22, 0, 9], WHOLE]),
    ],
)
def test_boxes_are_medians_over_the_frames_around(
    boxes: list[list[int]], margin: float, window: int, expected: list[list[int]]
) -> None:
    found = smoothed(np.array(boxes, np.int32), margin, window, SIZE)
    assert found.dtype == np.int32 and found.tolist() == expected


def test_boxes_keep_up_with_what_moves_to_the_ends_of_the_clip() -> None:
    moving = np.array([[3 * frame, 3 * frame + 9, 0, 9] for frame in range(10)], np.int32)
    np.testing.assert_array_equal(smoothed(moving, 0.0, 15, SIZE), moving)


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ([10, 20, 30, 81], 0.0, [10, 19, 30, 80]),
        ([10, 36, 30, 81], 0.04, [9, 36, 28, 82]),  # of 25 and 50: 1 and 2 pixels
        ([10, 35, 30, 80], 0.04, [10, 34, 29, 80]),  # of 24 and 49: 0.96 and 1.96, rounded down
        ([1, 64, 2, 128], 0.5, WHOLE),
        ([10, 11, 30, 80], 0.04, WHOLE),  # one row: nothing is left
        (NOTHING, 0.04, WHOLE),
    ],
)
def test_boxes_of_the_authors_lack_their_last_row_and_column(
    box: list[int], margin: float, expected: list[int]
) -> None:
    assert smoothed(np.array([box], np.int32), margin, 1, SIZE, short=True).tolist() == [expected]


def test_boxes_of_single_frames_jump() -> None:
    boxes = np.array([[10, 20, 0, 9], [40, 60, 0, 9], [12, 22, 0, 9]], np.int32)
    np.testing.assert_array_equal(smoothed(boxes, 0.0, 1, SIZE), boxes)
