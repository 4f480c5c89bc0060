"""The ground truth as a coarse map: what a perfect segmentation of the tokens would be."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from scipy.ndimage import distance_transform_edt

from pipeline.media.resize import resize_nearest


def coarse_truth(truth: np.ndarray, grid: tuple[int, int], ignore: Collection[int]) -> np.ndarray:
    """Ground truth (H, W) on a token grid (h, w): each token takes the value at its centre.

    An ignored token takes the nearest class: no method has a label for void, so none should be drawn into the
    classes around it. Where nothing but ignored values is left, they stay.

    Args:
        ignore: stored values that are no class.
    """
    plane = resize_nearest(truth, grid)
    ignored = np.isin(plane, list(ignore))
    if ignored.all():
        return plane
    rows, columns = distance_transform_edt(ignored, return_distances=False, return_indices=True)
    return plane[rows, columns]


def coarse_grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(h, w) of the grid with a point every `stride` pixels of a frame (H, W); at least one."""
    return max(1, round(size[0] / stride)), max(1, round(size[1] / stride))
