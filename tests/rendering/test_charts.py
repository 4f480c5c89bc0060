"""Charts as pictures: what is coloured, framed and drawn where."""

from __future__ import annotations

import numpy as np

from pipeline.rendering.charts import BEST, CELL, NEAR, Axis, heat_map, line

DOWN, ACROSS = Axis("segment.neighbors", ["1", "4"]), Axis("segment.clusters", ["4", "8", "12"])


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == colour).all(axis=-1).sum())


def test_a_heat_map_frames_the_best_and_what_is_near() -> None:
    scores = np.array([[30.0, 40.0, 50.0], [20.0, 49.0, np.nan]])
    best, near = scores == 50, scores == 49
    plain = heat_map(scores, DOWN, ACROSS, best & False, near & False, (20, 50))
    framed = heat_map(scores, DOWN, ACROSS, best, near, (20, 50))
    assert plain.shape == framed.shape and plain.dtype == np.uint8
    assert plain.shape[1] > 3 * CELL[0] and plain.shape[0] > 2 * CELL[1]
    frame = 2 * 3 * (CELL[0] - 2 + CELL[1] - 2) - 4 * 9
    assert count(plain, BEST) == 0 and count(framed, BEST) == frame
    assert count(framed, NEAR) - count(plain, NEAR) == frame
    cells = framed[-2 * CELL[1] :, -3 * CELL[0] :]
    assert count(cells[CELL[1] :, 2 * CELL[0] :], (255, 255, 255)) > CELL[0] * CELL[1] // 2  # undefined: blank


def test_maps_with_the_same_limits_share_their_colours() -> None:
    def corner(scores: list[float], limits: tuple[float, float]) -> tuple[int, ...]:
        values = np.array([scores])
        image = heat_map(values, Axis("a", ["1"]), Axis("b", ["1", "2"]), values < 0, values < 0, limits)
        return tuple(image[-12, -8 - 2 * CELL[0] + 3])

    assert corner([30, 40], (20, 50)) == corner([30, 50], (20, 50)) != corner([30, 40], (30, 40))


def test_a_line_shows_points_bars_and_the_best_in_red() -> None:
    scores = np.array([40.0, np.nan, 44.0])
    bars = np.array([[38.0, 43.0], [np.nan, np.nan], [np.nan, np.nan]])
    best = np.array([False, False, True])
    image = line(scores, bars, ACROSS, "mIoU in %", best)
    red = np.argwhere((image == BEST).all(axis=-1))
    assert 40 < len(red) < 150 and red[:, 1].min() > image.shape[1] * 2 // 3
    assert count(line(scores, bars, ACROSS, "mIoU in %", best & False), BEST) == 0


def test_equal_scores_can_be_drawn() -> None:
    one = np.array([40.0, 40.0])
    none = np.full((2, 2), np.nan)
    assert line(one, none, Axis("k", ["1", "2"]), "mIoU", one > 50).ndim == 3
    assert (
        heat_map(one[None], Axis("a", ["1"]), Axis("k", ["1", "2"]), one[None] > 50, one[None] > 50, (40, 40)).ndim == 3
    )
