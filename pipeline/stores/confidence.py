"""How sure labels are, as coarse.zarr and labels.zarr keep it: an array of bytes beside the labels, 0 to 255."""

from __future__ import annotations

import numpy as np

#: The array, of the labels' shape; stores may lack it.
CONFIDENCE = "confidence"
#: The byte that stands for 1.
MOST = 255


def in_levels(confidence: np.ndarray, step: int = 1) -> np.ndarray:
    """Confidence in [0, 1] as bytes of the same shape.

    Args:
        step: only every so many of the 256 levels is used; fewer compress better.
    """
    levels = np.rint(np.clip(confidence, 0, 1) * (MOST / step))
    return np.minimum(levels * step, MOST).astype(np.uint8)


def in_shares(levels: np.ndarray) -> np.ndarray:
    """Bytes as float32 in [0, 1], of the same shape."""
    return levels.astype(np.float32) / MOST
