"""What can be modulated in one pass."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.upsampling.label_groups import Region, alone, coloured, connected_parts, whole_labels

PLANE = np.array(
    [
        [0, 0, 1, 1, 2, 2, 2, 2],
        [0, 0, 1, 1, 2, 2, 2, 2],
        [0, 0, 1, 1, 2, 2, 0, 0],
        [3, 3, 3, 3, 3, 3, 0, 0],
    ]
)


def test_parts_of_a_label_are_its_connected_regions() -> None:
    parts = connected_parts(PLANE)
    assert [(part.label, int(part.mask.sum())) for part in parts] == [(0, 6), (0, 4), (1, 6), (2, 10), (3, 6)]
    assert sum(part.mask.astype(int) for part in parts).tolist() == np.ones_like(PLANE).tolist()
    assert [region.label for region in whole_labels(PLANE)] == [0, 1, 2, 3]


def test_alone_shows_a_label_everywhere() -> None:
    (group,) = alone([Region(4, np.eye(3, dtype=bool))])
    assert group.labels == [4]
    assert (group.owners == 4).all() and (group.mask == np.eye(3, dtype=bool)).all()


@pytest.mark.parametrize(("gap", "groups"), [(1, 2), (2, 2), (3, 3), (5, 4), (9, 5)])
def test_colouring_keeps_stripes_the_gap_apart(gap: int, groups: int) -> None:
    plane = np.repeat(np.arange(5), 2)[None].repeat(4, axis=0)  # stripes, two tokens wide
    found = coloured(whole_labels(plane), gap)
    assert len(found) == groups
    for group in found:
        columns = np.flatnonzero(group.mask[0])
        jumps = np.diff(columns)
        assert all(jump == 1 or jump > gap for jump in jumps)
    assert (sum(group.mask.astype(int) for group in found) == 1).all()


def test_owners_are_the_nearest_regions() -> None:
    plane = np.repeat(np.arange(5), 2)[None].repeat(4, axis=0)
    even = coloured(whole_labels(plane), 1)
    of_zero = next(group for group in even if 0 in group.labels)
    assert of_zero.labels == [0, 2, 4]
    assert of_zero.owners[0].tolist() == [0, 0, 0, 2, 2, 2, 2, 4, 4, 4]


def test_groups_of_a_window_hold_in_each_of_its_frames() -> None:
    """0 and 2 touch in the last frame only, and are apart in the whole window; 3 appears there and is 0's neighbour."""
    frames = np.array([[[0, 0, 1, 1, 2, 2]], [[0, 0, 1, 1, 2, 2]], [[3, 0, 0, 2, 2, 2]]])
    found = coloured(whole_labels(frames), 1)
    assert sorted(sorted(int(label) for label in np.unique(frames[group.mask])) for group in found) == [
        [0],
        [1, 3],
        [2],
    ]
    pair = next(group for group in found if group.mask[2, 0, 0])
    assert pair[0].labels == [1] and pair[2].labels == [3]  # of the same frame, however near another one is
    assert pair[2].mask.tolist() == [[True, False, False, False, False, False]]


def test_parts_of_a_window_connect_over_frames() -> None:
    frames = np.zeros((2, 1, 6), int)
    frames[0, 0, [0, 5]] = frames[1, 0, [1, 5]] = 1
    assert [int(part.mask.sum()) for part in connected_parts(frames) if part.label == 1] == [2, 2]
