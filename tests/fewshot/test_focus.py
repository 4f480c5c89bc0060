"""Boxes around what a first look finds: where they are, and what is seen and followed in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.backbone import Box
from pipeline.fewshot.focus import Focus, boxes_around, put_back, smoothed
from pipeline.media.resize import resize_frame
from pipeline.tracking.static import StaticTracker
from pipeline.tracking.tracks import FrameTracks, Tracks, grid_points, track

SIZE = (64, 128)
GRID = (8, 16)
WHOLE = [0, 64, 0, 128]
NOTHING = [0, 0, 0, 0]


def focus(*boxes: list[int]) -> Focus:
    return Focus(np.array(boxes, np.int32), SIZE, 0)


def still(frames: int, window: int = 5) -> Tracks:
    return track(StaticTracker(), np.zeros((frames, 8, 8, 3), np.uint8), None, GRID, window)


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


def test_what_is_seen_is_the_box_at_the_size_of_the_frame() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    seen = focus(WHOLE, [10, 42, 30, 90])
    assert seen.cut(0, image) is image and seen.box(0) is None
    np.testing.assert_array_equal(seen.cut(1, image), resize_frame(image[10:42, 30:90], SIZE))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (SIZE, Box(10, 42, 30, 90)),
        ((100, 200), Box(15, 66, 46, 141)),  # 15.6, 65.6, 46.9, 140.6
        ((3, 5), Box(0, 2, 1, 4)),
    ],
)
def test_boxes_on_the_picture(picture: tuple[int, int], expected: Box) -> None:
    whole, box = focus(NOTHING, WHOLE, [10, 42, 30, 90]).on(picture, range(1, 3))
    assert whole == Box(0, picture[0], 0, picture[1]) and box == expected


def test_outside_a_box_all_is_background() -> None:
    found = put_back(torch.ones(2, 3, dtype=torch.uint8), Box(1, 3, 0, 3), (4, 5), background=7)
    assert found.tolist() == [[7] * 5, [1, 1, 1, 7, 7], [1, 1, 1, 7, 7], [7] * 5]


def test_tracks_of_whole_frames_stay_what_they_are() -> None:
    tracks = still(4)
    tracks.visible[1, 2, 5] = False
    found = focus(*[WHOLE] * 6).tracks(tracks, GRID, range(4))
    for name in ("yx", "visible", "start"):
        np.testing.assert_array_equal(getattr(found, name), getattr(tracks, name), name)


def test_points_that_stay_lie_elsewhere_in_another_box() -> None:
    """A box of half the size, then the same a quarter of the frame to the right."""
    boxes = [WHOLE, [16, 48, 32, 96], [16, 48, 64, 128]]
    found = focus(*boxes).tracks(Tracks(*(part[1:] for part in vars(still(3)).values())), GRID, range(1, 3))
    yx, visible = (part[0].reshape(3, *GRID, -1) for part in (found.yx, found.visible))
    row, column = 4, 10
    assert yx[1, row, column].tolist() == [row, column]  # its own frame
    # The centre of this cell is at (16 + 4.5 * 4, 32 + 10.5 * 4) = (34, 74).
    assert yx[0, row, column].tolist() == [4, 9]  # cells of 8 pixels
    assert yx[2, row, column].tolist() == [4, 2]  # (74 - 64) / 4 = 2.5
    assert visible[:2].all()
    np.testing.assert_array_equal(visible[2, ..., 0], np.tile(np.arange(16) >= 8, (8, 1)))


def test_points_move_as_the_cells_that_they_lie_in() -> None:
    """All of the frame moves by one cell of it to the right, which is two of the box's."""
    points = grid_points(GRID)
    moved = points + np.array([0, 1], np.int16)
    listed = [np.stack([points, moved]), np.stack([points - np.array([0, 1], np.int16), points])]
    tracks = Tracks.of(FrameTracks(yx, np.ones((2, len(points)), bool), 0) for yx in listed)
    found = focus([16, 48, 32, 96], [16, 48, 32, 96]).tracks(tracks, GRID, range(2))
    np.testing.assert_array_equal(found.yx[0, 1], points + np.array([0, 2]))
    np.testing.assert_array_equal(found.visible[0, 1], points[:, 1] < 14)
    np.testing.assert_array_equal(found.yx[1, 0], points - np.array([0, 2]))


def test_what_a_track_lost_is_lost_in_the_box() -> None:
    tracks = still(2)
    tracks.visible[0, 1, 4 * 16 + 9] = False  # the cell of pixels (32..39, 72..79)
    found = focus([16, 48, 32, 96], [16, 48, 32, 96]).tracks(tracks, GRID, range(2)).visible[0, 1].reshape(GRID)
    lost = [tuple(place) for place in np.argwhere(~found).tolist()]
    assert lost == [(4, 10), (4, 11), (5, 10), (5, 11)]
