"""What is seen and followed in the parts of frames, and how crops become frames again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.backbone import Box
from pipeline.fewshot.views import Patches, View, canvas_of, put_back
from pipeline.media.resize import resize_frame
from pipeline.parameters import ApplyParams
from pipeline.tracking.static import StaticTracker
from pipeline.tracking.tracks import FrameTracks, Tracks, grid_points, track

SIZE = (64, 128)
GRID = (8, 16)
WHOLE = [0, 64, 0, 128]
NOTHING = [0, 0, 0, 0]


def view(*boxes: list[int]) -> View:
    return View(np.array(boxes, np.int32), SIZE)


def still(frames: int, window: int = 5) -> Tracks:
    return track(StaticTracker(), np.zeros((frames, 8, 8, 3), np.uint8), None, GRID, window)


def test_what_is_seen_is_the_box_at_the_size_of_the_frame() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    seen = view(WHOLE, [10, 42, 30, 90])
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
    whole, box = view(NOTHING, WHOLE, [10, 42, 30, 90]).on(picture, range(1, 3))
    assert whole == Box(0, picture[0], 0, picture[1]) and box == expected


def test_outside_a_box_all_is_background() -> None:
    found = put_back(torch.ones(2, 3, dtype=torch.uint8), Box(1, 3, 0, 3), (4, 5), background=7)
    assert found.tolist() == [[7] * 5, [1, 1, 1, 7, 7], [1, 1, 1, 7, 7], [7] * 5]


def test_tracks_of_whole_frames_stay_what_they_are() -> None:
    tracks = still(4)
    tracks.visible[1, 2, 5] = False
    found = view(*[WHOLE] * 6).tracks(tracks, GRID, range(4))
    for name in ("yx", "visible", "start"):
        np.testing.assert_array_equal(getattr(found, name), getattr(tracks, name), name)


def test_points_that_stay_lie_elsewhere_in_another_box() -> None:
    """A box of half the size, then the same a quarter of the frame to the right."""
    boxes = [WHOLE, [16, 48, 32, 96], [16, 48, 64, 128]]
    found = view(*boxes).tracks(Tracks(*(part[1:] for part in vars(still(3)).values())), GRID, range(1, 3))
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
    found = view([16, 48, 32, 96], [16, 48, 32, 96]).tracks(tracks, GRID, range(2))
    np.testing.assert_array_equal(found.yx[0, 1], points + np.array([0, 2]))
    np.testing.assert_array_equal(found.visible[0, 1], points[:, 1] < 14)
    np.testing.assert_array_equal(found.yx[1, 0], points - np.array([0, 2]))


def test_what_a_track_lost_is_lost_in_the_box() -> None:
    tracks = still(2)
    tracks.visible[0, 1, 4 * 16 + 9] = False  # the cell of pixels (32..39, 72..79)
    found = view([16, 48, 32, 96], [16, 48, 32, 96]).tracks(tracks, GRID, range(2)).visible[0, 1].reshape(GRID)
    lost = [tuple(place) for place in np.argwhere(~found).tolist()]
    assert lost == [(4, 10), (4, 11), (5, 10), (5, 11)]


def crops(number: int, share: float, seen: tuple[int, int] = GRID) -> Patches:
    return Patches.of(ApplyParams(patches=number, patch_share=share), seen)


@pytest.mark.parametrize(
    ("number", "share", "canvas", "tops", "lefts"),
    [
        (2, 0.5, (16, 32), (0, 8), (0, 16)),
        (2, 0.78125, (10, 20), (0, 2), (0, 4)),  # SLiMe's 400 of 512
        (3, 0.5, (16, 32), (0, 4, 8), (0, 8, 16)),
        (3, 0.34, (24, 47), (0, 8, 16), (0, 16, 31)),
        (2, 1.0, GRID, (0, 0), (0, 0)),
    ],
)
def test_crops_cover_the_frame(
    number: int, share: float, canvas: tuple[int, int], tops: tuple[int, ...], lefts: tuple[int, ...]
) -> None:
    found = crops(number, share)
    assert found.canvas == canvas
    assert found.cells == tuple(Box(top, top + 8, left, left + 16) for top in tops for left in lefts)
    covered = torch.zeros(canvas)
    for box in found.cells:
        box.of(covered).add_(1)
    assert covered.min() >= 1


def test_without_crops_maps_are_as_large_as_what_is_seen() -> None:
    assert canvas_of(ApplyParams(), GRID) == GRID


def test_crops_are_the_same_of_every_frame() -> None:
    first, *_, last = crops(2, 0.78125).views(3, SIZE)
    # 8 of 10 cells of 6.4 pixels, outwards.
    assert first.boxes.tolist() == [[0, 52, 0, 103]] * 3 and last.boxes.tolist() == [[12, 64, 25, 128]] * 3


def test_maps_of_crops_are_added_and_divided_by_the_crops_at_each_place() -> None:
    """A literal loop; the authors' code lets the last crop stand and divides all the same."""
    patches = crops(2, 0.8)
    parts = [torch.rand(3, 2, *GRID, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    found = patches.merged(parts)
    for row, column in np.ndindex(patches.canvas):
        here = [
            part[..., row - box.top, column - box.left]
            for part, box in zip(parts, patches.cells, strict=True)
            if box.top <= row < box.bottom and box.left <= column < box.right
        ]
        torch.testing.assert_close(found[..., row, column], sum(here, torch.zeros(3, 2)) / len(here))


def test_crops_of_the_same_map_are_that_map() -> None:
    patches = crops(3, 0.5)
    whole = torch.rand(1, 2, *patches.canvas, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(patches.merged([box.of(whole) for box in patches.cells]), whole)
