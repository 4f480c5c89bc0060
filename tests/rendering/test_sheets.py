from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.rendering import sheets
from pipeline.rendering.comparison import differing
from pipeline.rendering.drawing import MARK
from pipeline.rendering.palette import overlay_colours
from pipeline.rendering.sheets import GAP, LegendEntry, Panel


def solid(height: int, width: int, value: int = 10) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def legend(count: int) -> list[LegendEntry]:
    colours = overlay_colours()
    return [LegendEntry(tuple(colours[i].tolist()), f"label {i} ({100 // count} %)", str(i)) for i in range(count)]


def swatches(picture: np.ndarray, entries: list[LegendEntry]) -> int:
    """How many of the entries' colours occur."""
    return sum(bool((picture == entry.colour).all(axis=2).any()) for entry in entries)


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(1, 12, [0]), (3, 12, [0, 1, 2]), (5, 3, [0, 2, 4]), (100, 2, [0, 99]), (10, 1, [0])],
)
def test_spread(total: int, count: int, expected: list[int]) -> None:
    assert sheets.spread(total, count) == expected


def test_montage_places_panels_in_a_grid() -> None:
    a, b, c = solid(10, 20, 1), solid(6, 30, 2), solid(5, 8, 3)
    picture = sheets.montage([[Panel(a), Panel(b)], [Panel(c)]])
    assert picture.shape == (10 + 5 + 3 * GAP, 20 + 30 + 3 * GAP, 3)
    np.testing.assert_array_equal(picture[GAP : GAP + 10, GAP : GAP + 20], a)
    np.testing.assert_array_equal(picture[GAP : GAP + 6, 20 + 2 * GAP : 50 + 2 * GAP], b)
    np.testing.assert_array_equal(picture[10 + 2 * GAP : 15 + 2 * GAP, GAP : GAP + 8], c)
    assert (picture[:GAP] == 255).all()


@pytest.mark.parametrize("caption", ["a", "a very long name of a frame that fits nowhere_17", "Z\u00fcrich \u65e5"])
def test_captions_are_inside_their_column(caption: str) -> None:
    picture = sheets.montage([[Panel(solid(10, 60), caption), Panel(solid(10, 60))]])
    header = picture[GAP : picture.shape[0] - GAP - 10]
    assert (header[:, GAP : GAP + 60] < 200).any()
    assert (header[:, GAP + 60 :] == 255).all()


def test_contact_sheet_puts_each_overlay_below_its_frame() -> None:
    frames, overlays = [solid(20, 40, 10 + i) for i in range(6)], [solid(20, 40, 100 + i) for i in range(6)]
    sheet = sheets.contact_sheet([f"{i}" for i in range(6)], frames, overlays, legend(3))
    for number in range(6):
        column, row = GAP + number % 4 * (40 + GAP), np.flatnonzero((sheet == 10 + number).all(axis=2).any(axis=1))
        assert (sheet[row[0], column : column + 40] == 10 + number).all()
        assert (sheet[row[-1] + 1 + GAP, column : column + 40] == 100 + number).all()
    assert swatches(sheet, legend(3)) == 3


@pytest.mark.parametrize(("size", "labels"), [((480, 854), 5), ((480, 854), 20), ((240, 320), 8), ((96, 160), 3)])
def test_legend_strip_shows_all_labels_at_the_bottom(size: tuple[int, int], labels: int) -> None:
    image = solid(*size, 77)
    result = sheets.legend_strip(image, legend(labels))
    assert result.shape == image.shape and (image == 77).all()
    assert swatches(result, legend(labels)) == labels
    assert (result[: size[0] * 2 // 3] == 77).all()


def test_legend_strip_leaves_out_the_last_where_space_is_short() -> None:
    result = sheets.legend_strip(solid(64, 96), legend(40))
    shown = swatches(result, legend(40))
    assert 2 <= shown <= 6
    assert swatches(result, legend(40)[:shown]) == shown


def test_a_tiny_picture_has_no_legend() -> None:
    np.testing.assert_array_equal(sheets.legend_strip(solid(24, 32), legend(2)), solid(24, 32))


def test_x_t_slice_of_a_moving_dot_is_a_diagonal() -> None:
    """Figure 2: the marked row of every frame, stacked downwards."""
    columns = sheets.SliceColumns(row=0.5, width=10, steps=10)
    for step in range(10):
        image = solid(11, 10, 0)
        image[5, step] = 255
        columns.add({"frames": image, "labels": image})
    picture = columns.picture(10)
    top = picture.shape[0] - GAP - 10
    for left in (GAP, 10 + 2 * GAP):
        np.testing.assert_array_equal(picture[top : top + 10, left : left + 10, 0], 255 * np.eye(10))
    assert (picture == MARK).all(axis=2).any()


def test_cuts_are_lines_across_x_t_slices() -> None:
    columns = sheets.SliceColumns(row=0.5, width=8, steps=4, cuts=[2])
    for level in range(4):
        columns.add({"frames": solid(6, 8, 50 * level)})
    (picture,) = columns.over_time(12).values()
    assert (picture[:5, 0, 0] == [0, 0, 0, 50, 50]).all()
    assert (picture[5:7] == MARK).all()
    assert (picture[7:, 0, 0] == [100, 100, 150, 150, 150]).all()


@pytest.mark.parametrize(
    ("positions", "sampled", "steps"),
    [([3, 5], range(8), [3, 5]), ([3, 4, 5], [0, 4, 7], [1, 2]), ([9], [0, 4, 8], []), ([], [0], [])],
)
def test_steps_that_begin_a_shot(positions: list[int], sampled: Any, steps: list[int]) -> None:
    assert sheets.steps_of(positions, sampled) == steps


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"a": {"k": 1}}, {"a": {"k": 1}}, ("A", "B")),
        ({"a": {"k": 1, "j": 0}}, {"a": {"k": 2, "j": 0}}, ("A: a.k = 1", "B: a.k = 2")),
        ({"a": {"k": 1}}, {"b": {"z": 3}}, ("A: a.k = 1, b.z = -", "B: a.k = -, b.z = 3")),
    ],
)
def test_captions_of_a_comparison_name_what_differs(first: dict, second: dict, expected: tuple[str, str]) -> None:
    assert differing(first, second) == expected


@pytest.mark.parametrize(("text", "shown"), [("road", "road"), ("Straße é ñ", "Strasse e n"), ("道 1", "? 1")])
def test_texts_are_in_letters_that_the_font_has(text: str, shown: str) -> None:
    assert sheets.legible(text) == shown
