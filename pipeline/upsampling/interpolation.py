"""Upsampling of coarse label maps without a diffusion model: baselines and the cheap path."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from pipeline.upsampling.difference import resize_mask
from pipeline.upsampling.labelling import RunningArgmax

#: Joint bilateral upsampling looks at (2 * RADIUS + 1)^2 coarse cells, with these scales in cells and grey levels.
RADIUS = 2
SPATIAL_SIGMA = 1.0
RANGE_SIGMA = 20.0


def nearest(coarse: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Labels (h, w) at the guide's size (H, W, 3), each pixel taking the label of the cell in which its corner lies.

    As torch's `interpolate(mode="nearest")`; `resize_nearest` looks at centres, unlike it where ratios are not whole.
    """
    rows = np.arange(guide.shape[0]) * coarse.shape[0] // guide.shape[0]
    columns = np.arange(guide.shape[1]) * coarse.shape[1] // guide.shape[1]
    return coarse[rows[:, None], columns].astype(np.int64)


def bilinear(coarse: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Labels (h, w) at the guide's size: argmax of the bilinearly enlarged masks, lowest label on ties."""
    winner = RunningArgmax.empty(guide.shape[:2])
    for label in np.unique(coarse):
        winner.add(int(label), resize_mask(coarse == label, guide.shape[:2], "bilinear"))
    return winner.labels


def joint_bilateral(coarse: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Labels (h, w) that follow the edges of the guide image (H, W, 3) uint8 (Kopf et al., SIGGRAPH 2007).

    Each pixel averages the cells around it, weighted by their distance and by how much the pixel's colour
    differs from the cell's mean colour; argmax over labels, lowest on ties.
    """
    size, (height, width) = guide.shape[:2], coarse.shape
    image = guide.astype(np.float32)
    cells = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    y, x = ((np.arange(side) + 0.5) * n / side - 0.5 for side, n in zip(size, (height, width), strict=True))
    labels = np.unique(coarse)
    scores = np.zeros((len(labels), *size), np.float32)
    index = np.searchsorted(labels, coarse)
    pixels = np.indices(size)
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            rows, columns = np.rint(y).astype(int) + dy, np.rint(x).astype(int) + dx
            distance = (rows - y)[:, None] ** 2 + (columns - x) ** 2
            inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
            rows, columns = rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)
            contrast = np.square(image - cells[rows, columns]).sum(axis=-1)
            weight = np.exp(-distance / (2 * SPATIAL_SIGMA**2) - contrast / (2 * RANGE_SIGMA**2))
            # The floor keeps pixels decided whose colour is far from all cells around them.
            scores[index[rows, columns], *pixels] += np.where(inside, weight + 1e-12, 0)
    return labels[scores.argmax(axis=0)].astype(np.int64)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "nearest": nearest,
    "bilinear": bilinear,
    "joint_bilateral": joint_bilateral,
}
