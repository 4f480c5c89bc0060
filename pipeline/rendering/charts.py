"""Scores as pictures: a heat map of two parameters, a line of one. All pictures are u8 (H, W, 3), RGB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pipeline.rendering.sheets import GAP, INK, PAPER, TEXT, Colour, font, legible

#: Pixels of a cell of a heat map, of the plot of a line, and between a line's points.
CELL, PLOT_HEIGHT, STEP = (84, 44), 240, 84
#: The frame of the best setting, of those within noise of it, which are bright; grid lines.
BEST, NEAR, GRID = (214, 39, 40), INK, (225, 225, 225)


@dataclass(frozen=True)
class Axis:
    """What lies along one side of a chart: its name and the values, in order."""

    name: str
    values: Sequence[str]


def heat_map(
    scores: np.ndarray, down: Axis, across: Axis, best: np.ndarray, near: np.ndarray, limits: tuple[float, float]
) -> np.ndarray:
    """Scores as coloured cells with their numbers; dark is low, the best is framed in red, what is near it in black.

    Args:
        scores: (r, c); NaN = undefined, a blank cell.
        down: the axis of the r rows.
        across: the axis of the c columns.
        best, near: (r, c) bool, the cells to frame.
        limits: the lowest and the highest score, so that several maps share their colours.
    """
    texts = [legible(text) for text in down.values]
    left = GAP + round(max(font(TEXT).getlength(text) for text in [*texts, legible(down.name)])) + GAP
    top = 2 * round(TEXT * 1.5) + GAP
    rows, columns = scores.shape
    canvas = Image.new("RGB", (left + columns * CELL[0] + GAP, top + rows * CELL[1] + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((left, GAP), legible(across.name), INK, font(TEXT), anchor="lt")
    draw.text((GAP, top - GAP), legible(down.name), INK, font(TEXT), anchor="ls")
    for column, text in enumerate(across.values):
        place = left + (column + 0.5) * CELL[0], top - GAP
        draw.text(place, legible(text), INK, font(TEXT), anchor="ms")
    colours = _colours(scores, limits)
    for row in range(rows):
        middle = top + (row + 0.5) * CELL[1]
        draw.text((left - GAP, middle), texts[row], INK, font(TEXT), anchor="rm")
        for column in range(columns):
            if np.isnan(scores[row, column]):
                continue
            x, y = left + column * CELL[0], top + row * CELL[1]
            colour: Colour = tuple(map(int, colours[row, column]))  # type: ignore[assignment]
            draw.rectangle((x, y, x + CELL[0] - 1, y + CELL[1] - 1), colour)
            if best[row, column] or near[row, column]:
                frame = BEST if best[row, column] else NEAR
                draw.rectangle((x + 1, y + 1, x + CELL[0] - 2, y + CELL[1] - 2), None, frame, 3)
            ink = PAPER if np.dot(colour, (0.3, 0.59, 0.11)) < 140 else INK
            draw.text((x + CELL[0] / 2, middle), f"{scores[row, column]:.1f}", ink, font(TEXT), anchor="mm")
    return np.array(canvas)


def line(scores: np.ndarray, intervals: np.ndarray, across: Axis, score: str, best: np.ndarray) -> np.ndarray:
    """Scores of one parameter's values as a line of points; the best is red.

    Args:
        scores: (c,); NaN = undefined, no point.
        intervals: (c, 2), lower and upper end of a bar around each point; NaN = none.
        across: the axis of the c values.
        score: what is drawn, in words.
        best: (c,) bool.
    """
    ends = np.concatenate([scores, intervals.reshape(-1)])
    low, high = np.floor(np.nanmin(ends)), np.ceil(np.nanmax(ends))
    high = max(high, low + 1)
    left, top = GAP + round(font(TEXT).getlength("100.0")) + GAP, 2 * round(TEXT * 1.5)
    width, bottom = STEP * len(scores), top + PLOT_HEIGHT
    canvas = Image.new("RGB", (left + width + GAP, bottom + 3 * round(TEXT * 1.5)), PAPER)
    draw = ImageDraw.Draw(canvas)

    def height(value: float) -> float:
        return bottom - (value - low) / (high - low) * PLOT_HEIGHT

    draw.text((GAP, GAP), legible(score), INK, font(TEXT), anchor="lt")
    for value in np.linspace(low, high, 5):
        draw.line((left, height(value), left + width, height(value)), GRID)
        draw.text((left - GAP, height(value)), f"{value:.1f}", INK, font(TEXT), anchor="rm")
    xs = [left + (place + 0.5) * STEP for place in range(len(scores))]
    points = [(x, height(value)) for x, value in zip(xs, scores, strict=True) if not np.isnan(value)]
    draw.line(points, INK, 2)
    for x, value, (lower, upper), is_best, text in zip(xs, scores, intervals, best, across.values, strict=True):
        draw.text((x, bottom + TEXT), legible(text), INK, font(TEXT), anchor="mm")
        if not np.isnan(lower):
            draw.line((x, height(lower), x, height(upper)), INK, 1)
        if not np.isnan(value):
            draw.circle((x, height(value)), 5, BEST if is_best else INK)
    draw.text((left + width / 2, bottom + 2.5 * TEXT), legible(across.name), INK, font(TEXT), anchor="mm")
    return np.array(canvas)


def _colours(scores: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    shares = np.nan_to_num((scores - low) / max(high - low, 1e-12))
    levels = np.clip(np.rint(255 * shares), 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
