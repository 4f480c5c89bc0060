"""How steady labels are along tracks."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.scoring.flicker import Followed, flicker

GRID = (2, 3)
FRAMES = 4


def still(frame: int) -> Followed:
    """Points that stay where they are, in a window of three frames."""
    start = min(max(frame - 1, 0), FRAMES - 3)
    yx = np.stack(np.divmod(np.arange(6), 3), axis=-1).astype(np.int16)
    return Followed(np.repeat(yx[None], 3, axis=0), np.ones((3, 6), bool), start)


def scene() -> np.ndarray:
    """One label on the left, another on the right; cells have 4 pixels a side."""
    labels = np.zeros((FRAMES, 8, 12), np.uint8)
    labels[:, :, 8:] = 7
    return labels


def test_what_stays_does_not_flicker() -> None:
    assert flicker(scene(), GRID, still) == {"changed": 0, "points": 6 * (FRAMES - 1)}


def test_a_cell_that_is_wrong_in_one_frame_changes_twice() -> None:
    labels = scene()
    labels[2, :4, :4] = 7
    assert flicker(labels, GRID, still)["changed"] == 2


def test_labels_that_move_with_their_points_do_not_change() -> None:
    """Everything goes one cell to the right; what leaves the picture is not visible."""
    labels = np.zeros((FRAMES, 8, 12), np.uint8)
    for frame in range(FRAMES):
        labels[frame, :, : 4 * frame] = 9

    def follow(frame: int) -> Followed:
        moved = still(frame)
        yx = moved.yx.copy()
        yx[frame + 1 - moved.start, :, 1] += 1
        return Followed(yx, moved.visible & (yx[..., 1] < 3), moved.start)

    assert flicker(labels, GRID, follow) == {"changed": 0, "points": 4 * (FRAMES - 1)}
    assert flicker(labels, GRID, still)["changed"] == 2 * (FRAMES - 1)


@pytest.mark.parametrize("frames", [0, 1])
def test_clips_without_a_next_frame(frames: int) -> None:
    assert flicker(scene()[:frames], GRID, still) == {"changed": 0, "points": 0}


def test_tracks_of_one_frame_say_nothing() -> None:
    found = flicker(scene(), GRID, lambda frame: Followed(still(0).yx[:1], np.ones((1, 6), bool), frame))
    assert found == {"changed": 0, "points": 0}


def test_tracks_of_another_grid() -> None:
    with pytest.raises(DataError, match="tracks of 6 points do not fit a grid of 4x6"):
        flicker(scene(), (4, 6), still)
