"""Upsampling of coarse label maps without a diffusion model: baselines and the cheap path."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np

from pipeline.upsampling.difference import resize_mask
from pipeline.upsampling.guided_filter import GuidedFilter
from pipeline.upsampling.labelling import Decision, RunningArgmax, relative_margin

#: Joint bilateral upsampling looks at (2 * RADIUS + 1)^2 coarse cells, with these scales in cells and grey levels.
RADIUS = 2
SPATIAL_SIGMA = 1.0
RANGE_SIGMA = 20.0
#: Variance of brightness (0 to 1) below which the guided filter takes a window for flat.
VARIANCE = 1e-3


def nearest(coarse: np.ndarray, guide: np.ndarray) -> Decision:
    """Labels (h, w) at the guide's size (H, W, 3), each pixel taking the label of the cell in which its corner lies.

    As torch's `interpolate(mode="nearest")`; `resize_nearest` looks at centres, unlike it where ratios are not whole.
    Nothing competes, so that the margin is 1 everywhere.
    """
    rows = np.arange(guide.shape[0]) * coarse.shape[0] // guide.shape[0]
    columns = np.arange(guide.shape[1]) * coarse.shape[1] // guide.shape[1]
    labels = coarse[rows[:, None], columns].astype(np.int64)
    return Decision(labels, np.ones(labels.shape, np.float32))


def bilinear(coarse: np.ndarray, guide: np.ndarray) -> Decision:
    """Labels (h, w) at the guide's size: argmax of the bilinearly enlarged masks, lowest label on ties."""
    winner = RunningArgmax.empty(guide.shape[:2])
    for label in np.unique(coarse):
        winner.add(int(label), resize_mask(coarse == label, guide.shape[:2], "bilinear"))
    return winner.decision


def guided(coarse: np.ndarray, guide: np.ndarray) -> Decision:
    """Labels (h, w) that follow the edges of the guide image (H, W, 3) uint8: argmax of guided-filtered masks."""
    return guided_maps({int(label): coarse == label for label in np.unique(coarse)}, guide)


def guided_maps(maps: Mapping[int, np.ndarray], guide: np.ndarray) -> Decision:
    """Labels that follow the edges of the guide image (H, W, 3) uint8: argmax of their maps (h, w), guided-filtered.

    Each label's map is enlarged bilinearly, then fitted to the brightness of the guide in windows of two cells
    (He, Sun and Tang, ECCV 2010); lowest label on ties, and where none is above 0.

    Args:
        maps: label, ascending -> how much a cell is of it, from 0 to 1; all of one size.
    """
    size = guide.shape[:2]
    brightness = cv2.cvtColor(np.ascontiguousarray(guide), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    cells = next(iter(maps.values())).shape[0]
    radius = max(1, round(size[0] / cells))
    following = GuidedFilter(brightness, radius, VARIANCE)
    lowest = np.full(size, next(iter(maps)), np.int64)
    winner = RunningArgmax(np.zeros(size), np.full(size, -np.inf), lowest)  # 0 is to be beaten
    for label, of_label in maps.items():
        # Most segments are small; where a map is 0 there is nothing to filter, and nothing that could win.
        if (at := _around(of_label, size, 2 * radius)) is not None:
            winner.add(label, following(resize_mask(of_label, size, "bilinear")[at], at), at)
    return winner.decision


def _around(coarse: np.ndarray, size: tuple[int, int], margin: int) -> tuple[slice, slice] | None:
    """Rows and columns of an image of `size` where a map (h, w), enlarged bilinearly, is not 0, and a margin of pixels
    around them; None = it is 0 everywhere."""
    if not coarse.any():
        return None

    def along(axis: int) -> slice:
        cells, pixels = np.flatnonzero(coarse.any(axis=1 - axis)), size[axis] / coarse.shape[axis]
        # A cell is seen from half a cell beside it; a whole one makes rounding harmless.
        first, stop = int((cells[0] - 1) * pixels), math.ceil((cells[-1] + 2) * pixels)
        return slice(max(0, first - margin), min(size[axis], stop + margin))

    return along(0), along(1)


def joint_bilateral(coarse: np.ndarray, guide: np.ndarray) -> Decision:
    """Labels (h, w) that follow the edges of the guide image (H, W, 3) uint8 (Kopf et al., SIGGRAPH 2007).

    Each pixel averages the cells around it, weighted by their distance and by how much the pixel's colour
    differs from the cell's mean colour; argmax over labels, lowest on ties.
    """
    size, (height, width) = guide.shape[:2], coarse.shape
    image = guide.astype(np.float32)
    cells = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    y, x = ((np.arange(side) + 0.5) * n / side - 0.5 for side, n in zip(size, (height, width), strict=True))
    nearest_row, nearest_column = np.rint(y).astype(int), np.rint(x).astype(int)
    labels, index = np.unique(coarse, return_inverse=True)
    index = index.reshape(coarse.shape).astype(np.uint16)
    decided = index[nearest_row.clip(0, height - 1)[:, None], nearest_column.clip(0, width - 1)].astype(np.int64)
    # Where all cells that count have one label, it wins whatever the weights are.
    window = np.ones((2 * RADIUS + 1, 2 * RADIUS + 1), np.uint8)
    mixed = cv2.morphologyEx(index, cv2.MORPH_GRADIENT, window) > 0
    rows, columns = np.nonzero(mixed[nearest_row.clip(0, height - 1)[:, None], nearest_column.clip(0, width - 1)])
    colours, pixels = image[rows, columns], np.arange(len(rows))
    scores = np.zeros((len(labels), len(rows)), np.float32)
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            row, column = nearest_row[rows] + dy, nearest_column[columns] + dx
            distance = (row - y[rows]) ** 2 + (column - x[columns]) ** 2
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            row, column = row.clip(0, height - 1), column.clip(0, width - 1)
            contrast = np.square(colours - cells[row, column]).sum(axis=-1)
            weight = np.exp(-distance / (2 * SPATIAL_SIGMA**2) - contrast / (2 * RANGE_SIGMA**2))
            # The floor keeps pixels decided whose colour is far from all cells around them.
            scores[index[row, column], pixels] += np.where(inside, weight + 1e-12, 0)
    decided[rows, columns] = scores.argmax(axis=0)
    margin = np.ones(size, np.float32)
    if len(labels) > 1:
        second, best = np.partition(scores, -2, axis=0)[-2:]
        margin[rows, columns] = relative_margin(best, second)
    return Decision(labels[decided].astype(np.int64), margin)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], Decision]] = {
    "guided": guided,
    "nearest": nearest,
    "bilinear": bilinear,
    "joint_bilateral": joint_bilateral,
}
