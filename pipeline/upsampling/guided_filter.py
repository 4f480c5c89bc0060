"""The guided filter (He, Sun and Tang, ECCV 2010): smooth a map, but keep the edges of an image."""

from __future__ import annotations

import cv2
import numpy as np


def guided_filter(values: np.ndarray, guide: np.ndarray, radius: int, variance: float) -> np.ndarray:
    """A map (H, W) float32, locally a linear function of the guide (H, W) float32 in [0, 1].

    Args:
        radius: pixels on each side of the windows in which the function is fitted.
        variance: of the guide in a window, below which the map is averaged there.
    """

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(image, -1, (2 * radius + 1, 2 * radius + 1))

    mean_guide, mean_values = mean(guide), mean(values)
    covariance = mean(guide * values) - mean_guide * mean_values
    slope = covariance / (mean(guide * guide) - mean_guide**2 + variance)
    return mean(slope) * guide + mean(mean_values - slope * mean_guide)
