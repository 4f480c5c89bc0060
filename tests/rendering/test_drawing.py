from __future__ import annotations

import numpy as np
import pytest

from pipeline.rendering import drawing
from pipeline.rendering.palette import COLOURS, appearances, overlay_colours, with_chosen

COLOUR_TABLE = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)


@pytest.mark.parametrize(("labels", "least"), [(8, 0.075), (20, 0.06), (40, 0.035)])
def test_palette_stays_apart_for_all_kinds_of_sight(labels: int, least: float) -> None:
    for seen in appearances(overlay_colours()[:labels]):
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        assert apart[~np.eye(labels, dtype=bool)].min() >= least


def test_palette_has_no_black_white_grey_or_repetition() -> None:
    colours = overlay_colours().astype(int)
    assert len(np.unique(colours, axis=0)) == COLOURS
    assert colours.max(axis=1).min() >= 90  # none is close to black
    assert (colours.max(axis=1) - colours.min(axis=1)).min() >= 30  # none is grey or white


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_paint_repeats_colours(dtype: type) -> None:
    labels = np.array([[0, 2], [3, 200]], dtype)
    np.testing.assert_array_equal(drawing.paint(labels, COLOUR_TABLE), COLOUR_TABLE[[[0, 2], [0, 2]]])


def test_boundaries_are_where_labels_meet() -> None:
    labels = np.zeros((4, 5), np.uint8)
    labels[2:, 3:] = 9
    expected = np.zeros((4, 5), bool)
    expected[2:, 2] = expected[1, 3:] = True
    np.testing.assert_array_equal(drawing.boundaries(labels, 1), expected)
    thick = drawing.boundaries(labels, 2)
    assert thick[expected].all() and thick.sum() > expected.sum()
    assert not drawing.boundaries(np.full((4, 5), 7), 2).any()


@pytest.mark.parametrize(("opacity", "expected"), [(0.0, [40, 120, 80]), (1.0, [0, 200, 0])])
def test_overlay_goes_from_the_picture_to_the_colours(opacity: float, expected: list[int]) -> None:
    image = np.full((6, 8, 3), (40, 120, 80), np.uint8)
    result = drawing.overlay(image, np.ones((6, 8), np.uint8), COLOUR_TABLE, opacity)
    np.testing.assert_array_equal(result, np.broadcast_to(expected, (6, 8, 3)))


def test_overlay_outlines_are_brighter_than_both_sides() -> None:
    image = np.full((6, 8, 3), 30, np.uint8)
    labels = np.repeat([[0] * 4 + [2] * 4], 6, axis=0)
    result = drawing.overlay(image, labels, COLOUR_TABLE, 0.5).sum(axis=2)
    assert (result[:, 3] > result[:, 0]).all() and (result[:, 3] > result[:, 7]).all()
    assert (result[:, :3] == result[0, 0]).all()


def test_heat_rises_from_black() -> None:
    colours = drawing.heat(np.array([[0.0, 0.5, 2.0]]))[0].astype(int).sum(axis=1)
    assert colours[0] <= 5 and colours[0] < colours[1] < colours[2]
    assert drawing.heat(np.zeros((2, 2))).max() <= 5
    np.testing.assert_array_equal(drawing.heat(np.array([[3.0]]), 2.0), drawing.heat(np.array([[2.0]]), 2.0))


@pytest.mark.parametrize(("width", "size"), [(20, (10, 20)), (40, (20, 40)), (80, (40, 80)), (1, (1, 1))])
def test_resized_keeps_the_aspect(width: int, size: tuple[int, int]) -> None:
    assert drawing.resized(np.zeros((20, 40, 3), np.uint8), width).shape == (*size, 3)


def test_mark_row_leaves_the_picture_alone() -> None:
    image = np.zeros((9, 4, 3), np.uint8)
    marked = drawing.mark_row(image, drawing.row_of(image, 1.0))
    assert (marked[8] == drawing.MARK).all() and not marked[:7].any() and not image.any()


def test_xt_slice_stacks_time_downwards() -> None:
    rows = np.arange(4, dtype=np.uint8)[:, None, None].repeat(5, axis=1).repeat(3, axis=2)
    np.testing.assert_array_equal(drawing.xt_slice(rows, 9)[:, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(drawing.xt_slice(rows, 2), rows)  # never fewer rows than frames


def test_what_is_in_no_segment_stays_as_it_is(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    labels = np.ones((6, 8), np.uint8)
    labels[:, 4:] = 255
    result = drawing.overlay(image, labels, COLOUR_TABLE, 0.5, void=255)
    np.testing.assert_array_equal(result[:, 4:], image[:, 4:])
    assert (result[:, :3] != image[:, :3]).any()


def test_chosen_colours_are_of_one_label_each() -> None:
    colours = overlay_colours()
    assert with_chosen(colours, {}) is colours
    table = with_chosen(colours, {300: (1, 2, 3)})
    np.testing.assert_array_equal(table[300], (1, 2, 3))
    np.testing.assert_array_equal(table[[44, 299, 556]], colours[[44, 43, 44]])
