"""The guided filter (He, Sun and Tang, ECCV 2010): smooth a map, but keep the edges of an image."""

from __future__ import annotations

import cv2
import numpy as np

#: All rows and columns.
EVERYWHERE = (slice(None), slice(None))


class GuidedFilter:
    """Makes of maps what is locally a linear function of one guide.

    Args:
        guide: (H, W) float32 in [0, 1].
        radius: pixels on each side of the windows in which the function is fitted.
        variance: of the guide in a window, below which a map is averaged there.
    """

    def __init__(self, guide: np.ndarray, radius: int, variance: float) -> None:
        self._guide, self._window = guide, (2 * radius + 1, 2 * radius + 1)
        self._mean_guide = self._mean(guide)
        self._spread = self._mean(guide * guide) - self._mean_guide**2 + variance

    def __call__(self, values: np.ndarray, at: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        """A map (H, W) float32, filtered.

        Args:
            at: rows and columns (h, w) of the guide that `values` covers, if not all. Right where the map is 0 beyond
                them and, within them, up to two radii from their edges; but for those that are the guide's own edges.
        """
        guide, mean_guide, spread = (whole[at] for whole in (self._guide, self._mean_guide, self._spread))
        mean_values = self._mean(values)
        covariance = self._mean(guide * values) - mean_guide * mean_values
        slope = covariance / spread
        return self._mean(slope) * guide + self._mean(mean_values - slope * mean_guide)

    def _mean(self, image: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(image, -1, self._window)
